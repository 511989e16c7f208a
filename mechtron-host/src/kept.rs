//! What is kept of a mechtron: its state, and how far its watches were told, in one piece, so that neither is ever ahead of
//! the other.
//!
//! A mechtron without watches is kept as its state alone. Otherwise its state stands after these places, behind eight bytes that
//! say so; a state that begins with the same bytes is kept behind them too.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use starlane_core::{Code, Refusal};

use crate::changes::Place;

/// How far watches were told, by their selectors.
pub(crate) type Places = BTreeMap<Arc<str>, Place>;

/// No text and no JSON begins like this.
const MARK: [u8; 8] = *b"\x00watches";
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u8,
    places: Vec<(String, String)>,
    has_state: bool,
}

/// A state with places, as one piece.
pub(crate) fn pack(places: &Places, state: Option<&Bytes>) -> Option<Bytes> {
    if places.is_empty() && state.is_none_or(|state| !state.starts_with(&MARK)) {
        return state.cloned();
    }
    let places = places.iter().map(|(selector, place)| (selector.to_string(), place.0.to_string())).collect();
    let head = Head { version: VERSION, places, has_state: state.is_some() };
    #[expect(clippy::expect_used, reason = "a head has no part that postcard refuses")]
    let mut bytes = postcard::to_extend(&head, MARK.to_vec()).expect("heads are encodable");
    bytes.extend_from_slice(state.map(|state| &**state).unwrap_or_default());
    Some(bytes.into())
}

/// The places and the state in what was packed.
///
/// # Errors
/// `E-SCHEMA` when it was packed by a later version, or is damaged.
pub(crate) fn unpack(kept: Option<Bytes>) -> Result<(Places, Option<Bytes>), Refusal> {
    let Some(kept) = kept else { return Ok((Places::new(), None)) };
    let Some(rest) = kept.strip_prefix(&MARK) else { return Ok((Places::new(), Some(kept))) };
    let unread = |what: &str| {
        Refusal::new(
            Code::Schema,
            format!("how far its watches were told cannot be read from its state: {what}"),
        )
    };
    let (head, state) =
        postcard::take_from_bytes::<Head>(rest).map_err(|error| unread(&error.to_string()))?;
    if head.version != VERSION {
        return Err(unread(&format!("it is of version {}, this node knows {VERSION}", head.version)));
    }
    let places = head.places.into_iter().map(|(selector, place)| (selector.into(), Place(place.into())));
    Ok((places.collect(), head.has_state.then(|| kept.slice_ref(state))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: usize) -> Places {
        (0..count).map(|at| (format!("shop:{at}").into(), Place(format!("after {at}").into()))).collect()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let like_packed = Bytes::from([&MARK[..], b"{}"].concat());
        for count in [0, 1, 16] {
            for state in [None, Some(Bytes::new()), Some(Bytes::from("{}")), Some(like_packed.clone())] {
                let packed = pack(&places(count), state.as_ref());
                assert_eq!(unpack(packed), Ok((places(count), state)));
            }
        }
    }

    #[test]
    fn a_state_alone_is_kept_as_it_is() {
        let state = Bytes::from("{\"total\":1}");
        assert_eq!(pack(&Places::new(), Some(&state)), Some(state));
        assert_eq!(pack(&Places::new(), None), None);
    }

    #[test]
    fn what_is_damaged_or_of_a_later_version_is_refused() {
        let packed = pack(&places(2), Some(&"{}".into())).unwrap();
        for end in MARK.len()..packed.len() - 3 {
            assert!(unpack(Some(packed.slice(..end))).is_err(), "{end}");
        }
        let mut later = packed.to_vec();
        later[MARK.len()] = VERSION + 1;
        assert!(unpack(Some(later.into())).unwrap_err().detail.contains("version 2"));
    }
}
