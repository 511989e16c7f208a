//! `#[mechtron]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemStruct, Result};

use crate::contract::{doc, string};

pub(crate) fn expand(arguments: TokenStream, item: ItemStruct) -> Result<TokenStream> {
    let own_default = match &*arguments.to_string() {
        "" => false,
        "default" => true,
        _ => {
            return Err(Error::new_spanned(
                arguments,
                "nothing, or `default`: `#[mechtron(default)]` leaves `impl Default` to you",
            ));
        }
    };
    let name = &item.ident;
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(&item.generics, "a mechtron has no generic parameters"));
    }
    let derives_default = item.attrs.iter().any(|attribute| {
        attribute.path().is_ident("derive")
            && quote!(#attribute)
                .to_string()
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| word == "Default")
    });
    let derive_default =
        (!own_default && !derives_default).then(|| quote!(#[derive(::core::default::Default)]));
    // Serde wants fields for this.
    let fill_in = (!item.fields.is_empty()).then(|| quote!(, default));
    let doc = string(&doc(&item.attrs));
    Ok(quote! {
        #derive_default
        #[derive(::mechtron_sdk::serde::Serialize, ::mechtron_sdk::serde::Deserialize)]
        #[serde(crate = "::mechtron_sdk::serde" #fill_in)]
        #item

        #[automatically_derived]
        impl ::mechtron_sdk::__private::State for #name {
            const DOC: &'static str = #doc;
        }
    })
}
