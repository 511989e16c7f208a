//! What the macros say to a mistake is part of their use.

#[test]
fn mistakes_are_named() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
