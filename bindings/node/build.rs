//! Links the addon for Node.

fn main() {
    napi_build::setup();
    // When the last worker ends, Node unloads its addons, while the thread of an engine may still run their code.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
