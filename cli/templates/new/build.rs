//! Makes a release build look at the embedded folders: Cargo does not notice a new file by itself.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // In development the files are read from the disk, and nothing is to be built.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        for folder in ["templates", "static"] {
            println!("cargo::rerun-if-changed={folder}");
        }
    }
}
