//! How frames are written: as text, where the body is a member of the JSON document, or as bytes, where it follows it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The member that holds a body which is text.
const TEXT: &str = "text";
/// The member that holds any other body.
const BASE64_TEXT: &str = "base64";
/// How many bytes tell the length of the document, lowest first.
const LENGTH_BYTES: usize = 4;

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A JSON document. A body is its member `text` or, when it is not UTF-8, `base64`.
    Json,
    /// The length of a JSON document as four bytes, lowest first, the document, and the body.
    Binary,
}

/// A frame as a WebSocket carries it.
#[derive(Debug, Clone, PartialEq)]
pub enum Framed {
    /// A message of text.
    Text(String),
    /// A message of bytes.
    Binary(Bytes),
}

/// Why a frame cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Unread {
    /// The number that it has, if that could be read.
    pub id: Option<u64>,
    /// Why.
    pub detail: String,
}

impl Unread {
    fn new(document: Option<&Value>, detail: impl Into<String>) -> Self {
        let id = document.and_then(|document| document.get("id")).and_then(Value::as_u64);
        Self { id, detail: detail.into() }
    }
}

/// Writes a frame.
///
/// # Errors
/// When the document cannot be written as JSON.
pub fn encode(framing: Framing, document: &impl Serialize, body: &[u8]) -> Result<Framed, serde_json::Error> {
    match framing {
        Framing::Json if body.is_empty() => serde_json::to_string(document).map(Framed::Text),
        Framing::Json => {
            let mut document = serde_json::to_value(document)?;
            if let Value::Object(members) = &mut document {
                put_body(members, body);
            }
            serde_json::to_string(&document).map(Framed::Text)
        }
        Framing::Binary => {
            let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + 256 + body.len());
            bytes.put_u32_le(0);
            let mut bytes = bytes.writer();
            serde_json::to_writer(&mut bytes, document)?;
            let mut bytes = bytes.into_inner();
            // No document comes near 4 GiB.
            let length = (bytes.len() - LENGTH_BYTES) as u32;
            bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            bytes.put_slice(body);
            Ok(Framed::Binary(bytes.freeze()))
        }
    }
}

/// Reads a message of text, and the body in it.
///
/// # Errors
/// When it is no frame that this version knows.
pub fn decode_text<T: DeserializeOwned>(text: &str) -> Result<(T, Bytes), Unread> {
    let mut document: Value =
        serde_json::from_str(text).map_err(|error| Unread::new(None, format!("it is not JSON: {error}")))?;
    let body = document.as_object_mut().map(take_body).transpose();
    let body = body.map_err(|detail| Unread::new(Some(&document), detail))?.unwrap_or_default();
    Ok((read(&document)?, body))
}

/// Reads a message of bytes, and the body in it, which is not copied.
///
/// # Errors
/// When it is no frame that this version knows.
pub fn decode_binary<T: DeserializeOwned>(mut bytes: Bytes) -> Result<(T, Bytes), Unread> {
    let cut_off = || Unread::new(None, "it ends before its document does");
    let length = bytes.get(..LENGTH_BYTES).and_then(|length| length.try_into().ok()).ok_or_else(cut_off)?;
    let end = LENGTH_BYTES.saturating_add(u32::from_le_bytes(length) as usize);
    let document = bytes.get(LENGTH_BYTES..end).ok_or_else(cut_off)?;
    match serde_json::from_slice(document) {
        Ok(read) => Ok((read, bytes.split_off(end))),
        Err(error) => {
            let document = serde_json::from_slice::<Value>(document).ok();
            Err(Unread::new(document.as_ref(), format!("its document is wrong: {error}")))
        }
    }
}

fn read<T: DeserializeOwned>(document: &Value) -> Result<T, Unread> {
    T::deserialize(document).map_err(|error| Unread::new(Some(document), format!("it is wrong: {error}")))
}

fn put_body(members: &mut Map<String, Value>, body: &[u8]) {
    let (name, text) = match std::str::from_utf8(body) {
        Ok(text) => (TEXT, text.to_owned()),
        Err(_) => (BASE64_TEXT, BASE64.encode(body)),
    };
    members.insert(name.to_owned(), text.into());
}

fn take_body(members: &mut Map<String, Value>) -> Result<Bytes, String> {
    match (members.remove(TEXT), members.remove(BASE64_TEXT)) {
        (None, None) => Ok(Bytes::new()),
        (Some(Value::String(text)), None) => Ok(text.into()),
        (None, Some(Value::String(text))) => {
            BASE64.decode(text).map(Bytes::from).map_err(|error| format!("`base64` is none: {error}"))
        }
        (Some(_), Some(_)) => Err("a body is `text` or `base64`, not both".to_owned()),
        _ => Err("`text` and `base64` are texts".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Ask, Heard, Say, Tell};
    use super::*;
    use crate::Agent;

    fn asks() -> Vec<Ask> {
        [
            r#"{"op":"hello","version":1}"#,
            r#"{"op":"serve","id":1,"point":"shop:orders","kind":"Portal"}"#,
            r#"{"op":"unserve","id":2,"point":"shop:orders"}"#,
            r#"{"op":"grant","more":64}"#,
            r#"{"op":"request","id":3,"to":"shop:cart","method":"AddItem","timeoutMs":500}"#,
            r#"{"op":"send","id":4,"to":"shop:cart","from":"shop:orders","within":9}"#,
            r#"{"op":"publish","id":5,"to":"shop:prices","path":"/gold"}"#,
            r#"{"op":"subscribe","id":6,"topic":"shop:prices","grant":8}"#,
            r#"{"op":"watch","id":7,"select":"shop:**","since":"w1.3.00000000","grant":8}"#,
            r#"{"op":"api","id":8,"method":"GET","path":"/v1/info"}"#,
            r#"{"op":"cancel","id":3}"#,
            r#"{"op":"reply","id":9,"status":200,"headers":[["content-type","text/plain"]]}"#,
            r#"{"op":"fail","id":10,"detail":"no","ran":false}"#,
        ]
        .map(|text| decode_text::<Ask>(text).unwrap().0)
        .into()
    }

    #[test]
    fn all_that_a_client_says_reads_as_it_is_written_in_both_framings() {
        for ask in asks() {
            for body in [&b""[..], b"a text", b"\xff\x00 no text"] {
                let Framed::Text(text) = encode(Framing::Json, &ask, body).unwrap() else { panic!() };
                assert_eq!(decode_text::<Ask>(&text).unwrap(), (ask.clone(), Bytes::from_static(body)));
                let Framed::Binary(bytes) = encode(Framing::Binary, &ask, body).unwrap() else { panic!() };
                assert_eq!(decode_binary::<Ask>(bytes).unwrap(), (ask.clone(), Bytes::from_static(body)));
            }
        }
    }

    #[test]
    fn what_the_node_says_has_the_members_that_the_page_names() {
        let heard = Heard {
            point: "shop:orders".parse().unwrap(),
            from: "shop:cart".parse().unwrap(),
            agent: Agent("mesh:users:ann".parse().unwrap()),
            method: "Ext<Pay>".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            trace: "00-1-1-00".to_owned(),
        };
        let told = Tell::Request { id: 7, heard, timeout_ms: 500 };
        let Framed::Text(text) = encode(Framing::Json, &told, b"{}").unwrap() else { panic!() };
        let read: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "op": "request", "id": 7, "point": "shop:orders", "from": "shop:cart", "agent": "mesh:users:ann",
            "method": "Ext<Pay>", "path": "/", "trace": "00-1-1-00", "timeoutMs": 500, "text": "{}",
        });
        assert_eq!(read, expected);
        assert_eq!(decode_text::<Tell>(&text).unwrap().0, told);
        let answer = Tell::Reply(Answer { id: 1, status: 204, headers: Vec::new() });
        assert_eq!(
            encode(Framing::Json, &answer, b"").unwrap(),
            Framed::Text(r#"{"op":"reply","id":1,"status":204}"#.to_owned())
        );
    }

    #[test]
    fn what_cannot_be_read_says_why_and_whose_it_is() {
        for (text, id, says) in [
            ("{", None, "not JSON"),
            ("[]", None, "wrong"),
            (r#"{"op":"fly","id":4}"#, Some(4), "fly"),
            (r#"{"op":"serve","id":5,"point":"A b"}"#, Some(5), "a b"),
            (r#"{"op":"cancel","id":6,"text":"a","base64":"YQ=="}"#, Some(6), "not both"),
            (r#"{"op":"cancel","id":6,"base64":"?"}"#, Some(6), "base64"),
            (r#"{"op":"cancel","id":-6}"#, None, "-6"),
        ] {
            let unread = decode_text::<Ask>(text).unwrap_err();
            assert_eq!(unread.id, id, "{text}");
            assert!(unread.detail.contains(says), "{text}: {unread}");
        }
        let say = Say {
            id: 3,
            to: "shop".parse().unwrap(),
            from: None,
            within: None,
            method: None,
            path: None,
            headers: Vec::new(),
            timeout_ms: None,
        };
        let Framed::Binary(whole) = encode(Framing::Binary, &Ask::Send(say), b"").unwrap() else { panic!() };
        for end in 0..whole.len() {
            assert!(decode_binary::<Ask>(whole.slice(..end)).is_err(), "{end}");
        }
        let long = Bytes::from_static(&[255, 255, 255, 255, b'{']);
        assert!(decode_binary::<Ask>(long).unwrap_err().detail.contains("ends before"));
    }
}
