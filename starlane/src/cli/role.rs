//! The role of a node, as it is typed.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use starlane_core::Role;

/// Reads `relay`, `leaf` or `registry`, and completes them.
pub(super) fn parser() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new([Role::Relay, Role::Leaf, Role::Registry].map(Role::as_str))
        .try_map(|text| text.parse::<Role>())
}
