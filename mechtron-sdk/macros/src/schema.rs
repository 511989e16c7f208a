//! JSON Schema (2020-12) of Rust types, by their names alone.

use syn::{Expr, ExprLit, GenericArgument, Lit, PathArguments, Type};

use crate::contract::{Json, Part};

/// The schema of a type. What is not known here is a reference if it turns out to be a message, else `{}`.
pub(crate) fn of(ty: &Type) -> Json {
    match ty {
        Type::Tuple(tuple) if tuple.elems.is_empty() => Json::text(r#"{"type":"null"}"#),
        Type::Tuple(tuple) => fixed(tuple.elems.iter()),
        Type::Array(array) => match &array.len {
            Expr::Lit(ExprLit { lit: Lit::Int(length), .. }) => {
                let mut json = Json::text(r#"{"type":"array","items":"#);
                json.append(of(&array.elem));
                let length = length.base10_digits();
                json.push(&format!(r#","minItems":{length},"maxItems":{length}}}"#));
                json
            }
            _ => items(&array.elem),
        },
        Type::Paren(inner) => of(&inner.elem),
        Type::Group(inner) => of(&inner.elem),
        Type::Reference(reference) => of(&reference.elem),
        Type::Path(path) if path.qself.is_none() => named(ty, path),
        _ => Json::text("{}"),
    }
}

fn named(ty: &Type, path: &syn::TypePath) -> Json {
    let Some(last) = path.path.segments.last() else { return Json::text("{}") };
    let name = last.ident.to_string();
    let arguments = arguments(&last.arguments);
    match (&*name, &*arguments) {
        ("bool", []) => Json::text(r#"{"type":"boolean"}"#),
        ("String" | "str" | "PathBuf", []) => Json::text(r#"{"type":"string"}"#),
        ("char", []) => Json::text(r#"{"type":"string","minLength":1,"maxLength":1}"#),
        ("f32" | "f64", []) => Json::text(r#"{"type":"number"}"#),
        // In Wasm, the size of an address is 32 bits.
        ("u8" | "u16" | "u32" | "u64" | "usize", []) => {
            let max = match &*name {
                "u8" => u8::MAX.into(),
                "u16" => u16::MAX.into(),
                "u64" => u64::MAX,
                _ => u32::MAX.into(),
            };
            Json::text(format!(r#"{{"type":"integer","minimum":0,"maximum":{max}}}"#))
        }
        ("i8" | "i16" | "i32" | "i64" | "isize", []) => {
            let max: i64 = match &*name {
                "i8" => i8::MAX.into(),
                "i16" => i16::MAX.into(),
                "i64" => i64::MAX,
                _ => i32::MAX.into(),
            };
            Json::text(format!(r#"{{"type":"integer","minimum":{},"maximum":{max}}}"#, -max - 1))
        }
        ("u128", []) => Json::text(r#"{"type":"integer","minimum":0}"#),
        ("i128", []) => Json::text(r#"{"type":"integer"}"#),
        ("Option", [inner]) => {
            let mut json = Json::text(r#"{"anyOf":["#);
            json.append(of(inner));
            json.push(r#",{"type":"null"}]}"#);
            json
        }
        ("Vec" | "VecDeque" | "BTreeSet" | "HashSet" | "LinkedList", [item, ..]) => items(item),
        ("BTreeMap" | "HashMap", [_, value, ..]) => {
            let mut json = Json::text(r#"{"type":"object","additionalProperties":"#);
            json.append(of(value));
            json.push("}");
            json
        }
        ("Box" | "Rc" | "Arc" | "Cow" | "Cell" | "RefCell", [inner]) => of(inner),
        _ => Json::part(Part::Reference(Box::new(ty.clone()))),
    }
}

/// The types among a path's arguments.
pub(crate) fn arguments(arguments: &PathArguments) -> Vec<&Type> {
    match arguments {
        PathArguments::AngleBracketed(list) => (list.args.iter())
            .filter_map(|argument| match argument {
                GenericArgument::Type(ty) => Some(ty),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn items(item: &Type) -> Json {
    let mut json = Json::text(r#"{"type":"array","items":"#);
    json.append(of(item));
    json.push("}");
    json
}

/// An array of exactly these types.
pub(crate) fn fixed<'a>(types: impl ExactSizeIterator<Item = &'a Type>) -> Json {
    let length = types.len();
    let mut json = Json::text(r#"{"type":"array","prefixItems":["#);
    for (at, ty) in types.enumerate() {
        if at > 0 {
            json.push(",");
        }
        json.append(of(ty));
    }
    json.push(&format!(r#"],"items":false,"minItems":{length}}}"#));
    json
}

/// Whether a type is an `Option`.
pub(crate) fn is_option(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}
