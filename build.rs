//! Folders that `include_dir!` takes whole: without this cargo does not see that a file in them is new or changed.

fn main() {
    for folder in ["profiles/templates", "profiles/demo", "conceptmaps"] {
        println!("cargo::rerun-if-changed={folder}");
    }
}
