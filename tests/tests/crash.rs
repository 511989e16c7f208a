//! What survives a crash.

use tests::soak;

#[test]
fn what_was_acknowledged_survives_kills_and_a_watch_misses_nothing() {
    let figures = soak::kill_during_creates(8, 800, 8);
    println!("P01 P02 {figures}");
    assert!(figures.kept(), "{figures}");
    assert_eq!(figures.acknowledged, 800);
}
