//! `#[derive(Message)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Attribute, Data, DataEnum, DeriveInput, Error, Expr, ExprLit, Field, Fields, Ident, Lit, LitStr, Meta,
    Result, Variant,
};

use crate::contract::{Json, doc, section, string};
use crate::schema;

pub(crate) fn expand(input: DeriveInput) -> Result<TokenStream> {
    let name = &input.ident;
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.generics,
            "a message has no generic parameters: each message is one type with one schema",
        ));
    }
    if matches!(input.data, Data::Union(_)) {
        return Err(Error::new_spanned(name, "a message is a struct or an enum"));
    }
    let title = name.to_string();
    if !title.starts_with(|c: char| c.is_ascii_uppercase())
        || !title.chars().all(|c| c.is_ascii_alphanumeric())
    {
        return Err(Error::new_spanned(
            name,
            "a message's name is the name of a method: in Pascal case, like `AddItem`",
        ));
    }
    let schema = schema_of(&input)?.into_constant();

    let serde = serde_impls(&input);
    let record = section(
        &format!("{{\"def\":{},\"schema\":", string(&title)),
        &quote!(<#name as ::mechtron_sdk::Message>::SCHEMA),
        "}\n",
    );
    Ok(quote! {
        #serde
        #[automatically_derived]
        impl ::mechtron_sdk::Message for #name {
            const NAME: &'static str = #title;
            const SCHEMA: &'static str = #schema;
        }
        #record
    })
}

/// A derive macro cannot add derives, but serde can derive for a type from a copy of its definition.
fn serde_impls(input: &DeriveInput) -> TokenStream {
    let name = &input.ident;
    let copy_name = format_ident!("__{name}");
    let mut copy = input.clone();
    copy.ident = copy_name.clone();
    copy.vis = syn::Visibility::Inherited;
    copy.attrs.retain(|attribute| attribute.path().is_ident("serde"));
    let drop_docs = |attributes: &mut Vec<Attribute>| attributes.retain(|a| a.path().is_ident("serde"));
    match &mut copy.data {
        Data::Struct(data) => data.fields.iter_mut().for_each(|field| drop_docs(&mut field.attrs)),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                drop_docs(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| drop_docs(&mut field.attrs));
            }
        }
        Data::Union(_) => {}
    }
    let remote = name.to_string();
    quote! {
        const _: () = {
            #[derive(::mechtron_sdk::serde::Serialize, ::mechtron_sdk::serde::Deserialize)]
            #[serde(crate = "::mechtron_sdk::serde", remote = #remote)]
            #copy

            #[automatically_derived]
            impl ::mechtron_sdk::serde::Serialize for #name {
                fn serialize<S: ::mechtron_sdk::serde::Serializer>(
                    &self,
                    serializer: S,
                ) -> ::core::result::Result<S::Ok, S::Error> {
                    #copy_name::serialize(self, serializer)
                }
            }

            #[automatically_derived]
            impl<'de> ::mechtron_sdk::serde::Deserialize<'de> for #name {
                fn deserialize<D: ::mechtron_sdk::serde::Deserializer<'de>>(
                    deserializer: D,
                ) -> ::core::result::Result<Self, D::Error> {
                    #copy_name::deserialize(deserializer)
                }
            }
        };
    }
}

fn schema_of(input: &DeriveInput) -> Result<Json> {
    let options = Options::of(&input.attrs)?;
    let description = description(&input.attrs);
    match &input.data {
        Data::Struct(data) => fields(&data.fields, &options, &description),
        Data::Enum(data) => variants(data, &options, &description),
        Data::Union(_) => Ok(Json::text("{}")),
    }
}

/// `,"description":"…"` or nothing.
fn description(attributes: &[Attribute]) -> String {
    let doc = doc(attributes);
    if doc.is_empty() { doc } else { format!(",\"description\":{}", string(&doc)) }
}

fn fields(fields: &Fields, options: &Options, description: &str) -> Result<Json> {
    let mut json = match fields {
        Fields::Unit => Json::text(r#"{"type":"null""#),
        Fields::Unnamed(fields) => {
            for field in &fields.unnamed {
                Options::of(&field.attrs)?.none_of_rename_and_skip(field)?;
            }
            let inner = match fields.unnamed.len() {
                // Serde writes a struct around one value as the value itself.
                1 => schema::of(&fields.unnamed[0].ty),
                _ => schema::fixed(fields.unnamed.iter().map(|field| &field.ty)),
            };
            let mut json = Json::text(r#"{"allOf":["#);
            json.append(inner);
            json.push("]");
            json
        }
        Fields::Named(fields) => named(fields, options)?,
    };
    json.push(description);
    json.push("}");
    Ok(json)
}

/// An object, without its last brace.
fn named(fields: &syn::FieldsNamed, options: &Options) -> Result<Json> {
    let mut json = Json::text(r#"{"type":"object","properties":{"#);
    let mut required = Vec::new();
    let mut first = true;
    for field in &fields.named {
        let Some(ident) = &field.ident else { continue };
        let own = Options::of(&field.attrs)?;
        if own.skip {
            continue;
        }
        let name = own.rename.clone().unwrap_or_else(|| options.rename_field(&raw(ident)));
        if !std::mem::take(&mut first) {
            json.push(",");
        }
        json.push(&string(&name));
        json.push(":");
        let description = description(&field.attrs);
        if description.is_empty() {
            json.append(schema::of(&field.ty));
        } else {
            json.push(r#"{"allOf":["#);
            json.append(schema::of(&field.ty));
            json.push(&format!("]{description}}}"));
        }
        if !(own.default || options.default || schema::is_option(&field.ty)) {
            required.push(string(&name));
        }
    }
    json.push(&format!("}},\"required\":[{}]", required.join(",")));
    if options.deny_unknown_fields {
        json.push(r#","additionalProperties":false"#);
    }
    Ok(json)
}

/// Enums as serde writes them: a variant's name, or an object with the name as its only key.
fn variants(data: &DataEnum, options: &Options, description: &str) -> Result<Json> {
    let mut json = Json::text(r#"{"oneOf":["#);
    let mut first = true;
    for variant in &data.variants {
        let own = Options::of(&variant.attrs)?;
        if own.skip {
            continue;
        }
        if !std::mem::take(&mut first) {
            json.push(",");
        }
        let name =
            string(&own.rename.clone().unwrap_or_else(|| options.rename_variant(&raw(&variant.ident))));
        json.append(variant_schema(variant, &own, &name)?);
    }
    json.push(&format!("]{description}}}"));
    Ok(json)
}

fn variant_schema(variant: &Variant, own: &Options, name: &str) -> Result<Json> {
    let description = description(&variant.attrs);
    if matches!(variant.fields, Fields::Unit) {
        return Ok(Json::text(format!("{{\"const\":{name}{description}}}")));
    }
    let mut json = Json::text(format!(r#"{{"type":"object","properties":{{{name}:"#));
    json.append(fields(&variant.fields, own, "")?);
    json.push(&format!(r#"}},"required":[{name}],"additionalProperties":false{description}}}"#));
    Ok(json)
}

fn raw(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

/// What serde's attributes say.
#[derive(Default)]
struct Options {
    rename: Option<String>,
    rename_all: Option<LitStr>,
    default: bool,
    skip: bool,
    deny_unknown_fields: bool,
}

impl Options {
    fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            let list = attribute
                .parse_args_with(syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated)?;
            for meta in list {
                options.read(&meta)?;
            }
        }
        Ok(options)
    }

    fn read(&mut self, meta: &Meta) -> Result<()> {
        let name = meta.path().get_ident().map(Ident::to_string).unwrap_or_default();
        match (&*name, meta) {
            ("rename", Meta::NameValue(pair)) => self.rename = Some(literal(&pair.value)?.value()),
            ("rename_all", Meta::NameValue(pair)) => {
                let style = literal(&pair.value)?;
                if !STYLES.contains(&&*style.value()) {
                    return Err(Error::new_spanned(style, format!("not one of {}", STYLES.join(", "))));
                }
                self.rename_all = Some(style);
            }
            ("default", _) => self.default = true,
            ("skip", Meta::Path(_)) => self.skip = true,
            ("skip_serializing_if", Meta::NameValue(_)) => self.default = true,
            ("deny_unknown_fields", Meta::Path(_)) => self.deny_unknown_fields = true,
            _ => {
                return Err(Error::new_spanned(
                    meta,
                    "the contract cannot tell of this; of serde's attributes a message may have `rename = \"…\"`, \
                     `rename_all = \"…\"`, `default`, `skip`, `skip_serializing_if` and `deny_unknown_fields`",
                ));
            }
        }
        Ok(())
    }

    fn none_of_rename_and_skip(&self, field: &Field) -> Result<()> {
        if self.skip || self.default {
            return Err(Error::new_spanned(
                field,
                "fields without names cannot be left out; give them names",
            ));
        }
        Ok(())
    }

    fn rename_field(&self, snake: &str) -> String {
        let Some(style) = &self.rename_all else { return snake.to_owned() };
        let pascal: String = snake.split('_').map(capitalized).collect();
        match &*style.value() {
            "UPPERCASE" | "SCREAMING_SNAKE_CASE" => snake.to_ascii_uppercase(),
            "PascalCase" => pascal,
            "camelCase" => uncapitalized(&pascal),
            "kebab-case" => snake.replace('_', "-"),
            "SCREAMING-KEBAB-CASE" => snake.to_ascii_uppercase().replace('_', "-"),
            _ => snake.to_owned(),
        }
    }

    fn rename_variant(&self, pascal: &str) -> String {
        let Some(style) = &self.rename_all else { return pascal.to_owned() };
        let mut snake = String::new();
        for (at, c) in pascal.char_indices() {
            if at > 0 && c.is_uppercase() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        match &*style.value() {
            "lowercase" => pascal.to_ascii_lowercase(),
            "UPPERCASE" => pascal.to_ascii_uppercase(),
            "camelCase" => uncapitalized(pascal),
            "snake_case" => snake,
            "SCREAMING_SNAKE_CASE" => snake.to_ascii_uppercase(),
            "kebab-case" => snake.replace('_', "-"),
            "SCREAMING-KEBAB-CASE" => snake.to_ascii_uppercase().replace('_', "-"),
            _ => pascal.to_owned(),
        }
    }
}

/// Serde's names for the ways to write names.
const STYLES: [&str; 8] = [
    "lowercase",
    "UPPERCASE",
    "PascalCase",
    "camelCase",
    "snake_case",
    "SCREAMING_SNAKE_CASE",
    "kebab-case",
    "SCREAMING-KEBAB-CASE",
];

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

fn uncapitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_lowercase().to_string() + chars.as_str()).unwrap_or_default()
}

fn literal(value: &Expr) -> Result<LitStr> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text.clone()),
        other => Err(Error::new_spanned(other, "a text is expected here")),
    }
}
