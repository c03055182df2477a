//! Links `src/launch.c` into the program. It runs before Rust's runtime changes how SIGPIPE is handled.

fn main() {
    println!("cargo::rerun-if-changed=src/launch.c");
    for object in cc::Build::new().file("src/launch.c").compile_intermediates() {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
}
