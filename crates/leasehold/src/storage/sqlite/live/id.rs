//! The id of a storage, which is the name of its liveness file.
//!
//! An id has eight hexadecimal numbers, separated by `-`: three that name the files it locks in (the *tag*, see
//! `Files::tag`), four that name its process (see `Process`), and a random one.

use std::path::{Path, PathBuf};

use crate::storage::Owner;
use crate::storage::sqlite::process::Process;

/// The ending of the pipe that belongs to a liveness file.
pub(in crate::storage::sqlite) const HINT: &str = ".hint";

const NUMBERS: usize = NUMBERS_OF_TAG + 4 + 1;
const NUMBERS_OF_TAG: usize = 3;

/// Returns a new id.
pub(super) fn new_id(tag: &str, process: Process) -> String {
    format!("{tag}-{process}-{}", Owner::random())
}

/// Returns `true` if the text can be an id. It becomes part of a path, and comes from a file that others write.
pub(super) fn is_id(id: &str) -> bool {
    id.len() < 192
        && id.split('-').count() == NUMBERS
        && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

/// Returns `true` if the storage locks in the files with this tag.
pub(super) fn has_tag(id: &str, tag: &str) -> bool {
    let numbers_after = NUMBERS - NUMBERS_OF_TAG;
    id.strip_prefix(tag)
        .is_some_and(|rest| rest.starts_with('-') && rest.split('-').count() == numbers_after + 1)
}

/// Returns the process that an id names.
pub(super) fn process_of(id: &str) -> Option<Process> {
    let (_, after_tag) = id.match_indices('-').nth(NUMBERS_OF_TAG - 1).map(|(at, _)| id.split_at(at + 1))?;
    let (process, _random) = after_tag.rsplit_once('-')?;
    process.parse().ok()
}

/// Returns the path of the pipe that belongs to a liveness file; `None` if the id is not one.
#[cfg(target_os = "linux")]
pub(in crate::storage::sqlite) fn hint_path(dir: &Path, id: &str) -> Option<PathBuf> {
    is_id(id).then(|| pipe_of(&dir.join(id)))
}

/// Returns the path of the pipe that belongs to the liveness file at a path.
pub(super) fn pipe_of(file: &Path) -> PathBuf {
    let mut pipe = file.as_os_str().to_owned();
    pipe.push(HINT);
    pipe.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_a_path() {
        for id in
            ["../x-1", "/etc/passwd", "7", "", "7-a.hint", "7-ä", "1-2-3-4-5-6-7-8-9", "1-2-3-4-5-6-7-/"]
        {
            assert!(!is_id(id), "{id}");
        }
        assert!(is_id("1-2-3-4-5-6-7-8"));
    }

    #[test]
    fn an_id_names_its_files_and_its_process() {
        assert_eq!(process_of("1-2-3-4-5-6-7-8"), "4-5-6-7".parse().ok());
        assert!(has_tag("1-2-3-4-5-6-7-8", "1-2-3") && !has_tag("1-2-3-4-5-6-7-8", "1-2"));
    }
}
