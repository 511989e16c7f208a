//! `starlane create`.

use clap::Args;

use super::{Session, statement};
use crate::output::Stop;

/// Creates a resource. The arguments form a statement of the language.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane create 'localhost<Space>'
  starlane create shop:cart --kind Mechtron +config=shop:repo:cart:1.0.0:/config/cart.mechtron
  starlane create 'shop:cart-%<Mechtron>{ +wasm.src=shop:repo:cart:1.0.0:/wasm/cart.wasm }'
  starlane create --ensure 'shop:users<Base>'        (also: starlane create? …)
  starlane create --override 'shop:users<Base>'      (also: starlane create! …)")]
pub(super) struct CreateArgs {
    /// The point with its kind, and properties: `+key=value`, `+@key=value` to lock
    #[arg(required = true, value_name = "STATEMENT")]
    words: Vec<String>,
    /// The kind, instead of `<Kind>` after the point
    #[arg(short, long, value_name = "KIND")]
    kind: Option<String>,
    /// Succeed when it exists with that kind
    #[arg(long, conflicts_with = "override_")]
    ensure: bool,
    /// Replace its properties when it exists
    #[arg(long = "override")]
    override_: bool,
}

/// `mark` is that of the spelling `create?` or `create!`.
pub(super) async fn run(session: &Session, args: CreateArgs, mark: Option<char>) -> Result<(), Stop> {
    let mark = if args.ensure {
        Some('?')
    } else if args.override_ {
        Some('!')
    } else {
        mark
    };
    let verb = format!("create{}", mark.map(String::from).unwrap_or_default());
    let text = statement::from_words(&verb, args.kind.as_deref(), &args.words);
    statement::run_one(session, &text).await
}
