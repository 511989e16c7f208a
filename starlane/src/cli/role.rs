//! The role of a node, as it is typed.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use starlane_core::Role;

/// Reads `relay` or `leaf`, and completes them.
pub(super) fn parser() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new([Role::Relay.as_str(), Role::Leaf.as_str()])
        .try_map(|text| text.parse::<Role>())
}
