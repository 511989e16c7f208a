//! A mechtron that moves keeps what it knows and who waits for it.
#![cfg(target_os = "linux")]

use tests::soak;

#[test]
fn a_mechtron_moves_under_load_whatever_its_durability() {
    for durability in ["memory", "node", "mesh"] {
        let report = soak::moves_under_load(durability, 6);
        println!("{report}");
        assert!(report.kept(), "{report}");
    }
}
