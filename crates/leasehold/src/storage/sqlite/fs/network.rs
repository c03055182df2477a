//! File systems on which another machine may open the same file without sharing memory with this one.

use std::path::Path;

/// Returns the name of the shared file system that a path lies on; `None` if the file system is local or unknown.
#[cfg(target_os = "linux")]
pub(in crate::storage::sqlite) fn network_fs(path: &Path) -> Option<&'static str> {
    let found = rustix::fs::statfs(path).ok()?;
    // The field is signed on some machines and the number has 32 bits on all.
    let magic = u32::try_from(i128::from(found.f_type) & 0xffff_ffff).ok()?;
    network_fs_by_magic(magic)
}

/// Returns `None`: only Linux names the file system in a way that can be relied on.
#[cfg(not(target_os = "linux"))]
pub(in crate::storage::sqlite) fn network_fs(_path: &Path) -> Option<&'static str> {
    None
}

#[cfg(target_os = "linux")]
fn network_fs_by_magic(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x0000_6969 => "NFS",
        0x0000_517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9P",
        0x6573_5546 => "FUSE",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x00c3_6400 => "Ceph",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x0bd0_0bd0 => "Lustre",
        0x7375_7245 => "Coda",
        0x0000_564c => "NCP",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x786f_4256 => "a VirtualBox shared folder",
        _ => return None,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        for magic in [0x6969, 0x517b, 0xff53_4d42, 0x0102_1997, 0x6573_5546, 0x0bd0_0bd0] {
            assert!(network_fs_by_magic(magic).is_some(), "{magic:x}");
        }
        let (ext4, tmpfs, overlay, btrfs, xfs) = (0xef53, 0x0102_1994, 0x794c_7630, 0x9123_683e, 0x5846_5342);
        for magic in [ext4, tmpfs, overlay, btrfs, xfs] {
            assert!(network_fs_by_magic(magic).is_none(), "{magic:x}");
        }
    }
}
