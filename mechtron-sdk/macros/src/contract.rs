//! Records of the contract: JSON that is put together while the user's crate is compiled.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Expr, ExprLit, Lit, Meta, Type};

/// A part of a record.
pub(crate) enum Part {
    /// JSON as it is.
    Text(String),
    /// A reference to a type's schema, if the type is a message; else `{}`.
    Reference(Box<Type>),
    /// A constant `&'static str`.
    Constant(TokenStream),
}

/// Some JSON.
#[derive(Default)]
pub(crate) struct Json(Vec<Part>);

impl Json {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self(vec![Part::Text(text.into())])
    }

    pub(crate) fn part(part: Part) -> Self {
        Self(vec![part])
    }

    pub(crate) fn push(&mut self, text: &str) {
        if let Some(Part::Text(last)) = self.0.last_mut() {
            last.push_str(text);
        } else {
            self.0.push(Part::Text(text.to_owned()));
        }
    }

    pub(crate) fn append(&mut self, other: Json) {
        for part in other.0 {
            match part {
                Part::Text(text) => self.push(&text),
                part => self.0.push(part),
            }
        }
    }

    /// An expression of type `&'static str`, usable in constants.
    pub(crate) fn into_constant(self) -> TokenStream {
        let parts = self.0.into_iter().map(|part| match part {
            Part::Text(text) => quote!([#text, "", ""]),
            Part::Reference(ty) => {
                quote!(::mechtron_sdk::__private::reference(<::mechtron_sdk::__private::Probe<#ty>>::NAME))
            }
            Part::Constant(constant) => quote!([#constant, "", ""]),
        });
        quote! {{
            use ::mechtron_sdk::__private::Unknown as _;
            const PARTS: &[[&str; 3]] = &[#(#parts),*];
            const BYTES: [u8; ::mechtron_sdk::__private::length(PARTS)] =
                ::mechtron_sdk::__private::concat(PARTS);
            ::mechtron_sdk::__private::text(&BYTES)
        }}
    }
}

/// Puts a record, a constant `&'static str`, into the module's section.
pub(crate) fn section(before: &str, record: &TokenStream, after: &str) -> TokenStream {
    quote! {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            const PARTS: &[[&str; 3]] = &[[#before, #record, #after]];
            #[unsafe(link_section = "mechtron.contract")]
            static RECORD: [u8; ::mechtron_sdk::__private::length(PARTS)] =
                ::mechtron_sdk::__private::concat(PARTS);
        };
    }
}

/// A JSON string.
pub(crate) fn string(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            c if c.is_control() => json.push_str(&format!("\\u{:04x}", c as u32)),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// The doc comment, its lines trimmed.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) => Some(line.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}
