//! Declares the features that the sources name and that this copy does not have.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(feature, values(\"redis\", \"postgres\", \"_net\"))");
    println!("cargo::rerun-if-changed=build.rs");
}
