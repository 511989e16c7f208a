//! What survives a crash.

#[cfg(unix)]
use tests::etcd::Etcd;
use tests::soak;

#[test]
fn what_was_acknowledged_survives_kills_and_a_watch_misses_nothing() {
    let figures = soak::kill_during_creates(None, 8, 800, 8);
    println!("P01 P02 {figures}");
    assert!(figures.kept(), "{figures}");
    assert_eq!(figures.acknowledged, 800);
}

#[cfg(unix)]
#[test]
fn so_it_is_for_a_node_whose_registry_is_in_etcd() {
    let Some(etcd) = Etcd::start(1) else { return };
    let figures = soak::kill_during_creates(Some(etcd.address("crash")), 4, 400, 8);
    println!("P01 P02 {figures}");
    assert!(figures.kept(), "{figures}");
    assert_eq!(figures.acknowledged, 400);
}
