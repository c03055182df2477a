//! Says that the sources name features that this copy does not have: those of the other storages.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(feature, values(any()))");
    println!("cargo::rerun-if-changed=build.rs");
}
