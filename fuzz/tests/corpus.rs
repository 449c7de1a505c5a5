//! Every seed, and every input that ever broke something, through its target: no fuzzer needed.

use std::{fs, path::Path};

#[path = "../src/targets.rs"]
mod targets;

#[test]
fn every_seed_passes() {
    for (name, run) in targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let files: Vec<_> =
            fs::read_dir(&folder).expect(name).map(|entry| entry.expect(name).path()).collect();
        assert!(!files.is_empty(), "{name} has no seeds");
        for file in files {
            println!("{}", file.display());
            run(&fs::read(&file).expect(name));
        }
    }
}
