//! The attribute macros of mechtron-sdk. They write only what a person could have written: serde's derives, a `match`
//! over messages, a typed reference, and the record of the contract.

mod contract;
mod handlers;
mod mechtron;
mod message;
mod schema;

use proc_macro::TokenStream;

/// Makes a type a message: its serialization (serde's, as JSON), its name, and its schema in the contract.
///
/// `#[serde(rename, rename_all, default, skip, skip_serializing_if, deny_unknown_fields)]` are respected; other
/// attributes of serde are refused, since the contract could not tell of them.
#[proc_macro_derive(Message, attributes(serde))]
pub fn message(input: TokenStream) -> TokenStream {
    message::expand(syn::parse_macro_input!(input)).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a struct a mechtron: its fields are the state, saved as JSON when a handler ends well.
///
/// Fields that a saved state lacks take their value from `Default`, which is derived unless the struct derives it
/// itself or says `#[mechtron(default)]`: then `impl Default` is the author's.
#[proc_macro_attribute]
pub fn mechtron(arguments: TokenStream, input: TokenStream) -> TokenStream {
    mechtron::expand(arguments.into(), syn::parse_macro_input!(input))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes the methods of an `impl` block handlers: `#[init]`, `#[call]`, `#[cast]`, `#[timer]`,
/// `#[http(GET, "/path/{name}")]`, `#[socket(message)]`, `#[socket(closed)]` and `#[on(watch = "SELECTOR")]`. Methods without one of these
/// stay what they are.
#[proc_macro_attribute]
pub fn handlers(arguments: TokenStream, input: TokenStream) -> TokenStream {
    handlers::expand(&arguments.into(), syn::parse_macro_input!(input))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
