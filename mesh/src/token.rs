//! Tokens: what lets a node join, once.
//!
//! A token is `sl1.PIN.ID.SECRET`: the fingerprint of the authority's key, so that it is shown to the right mesh only;
//! a public name, under which it is found; and 256 random bits. The mesh keeps the secret's hash, what the token grants
//! and until when.

mod kept;
mod rules;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use starlane_core::{NodeName, Role};

pub use kept::{Found, OutOfReach, TokenRecord, Tokens};
pub use rules::{Granted, TokenRefused, check};

use crate::identity::Fingerprint;

/// The version that a token begins with.
const VERSION: &str = "sl1";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// For how many seconds a token can be used when nothing else is said.
pub const TTL_SECONDS: u64 = 600;

/// A token in the hands of whoever joins. Printing it hides the secret; [`Token::reveal`] does not.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pin: Fingerprint,
    id: TokenId,
    secret: Secret,
}

/// The public name of a token: `t` and 16 digits of lowercase hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; ID_BYTES]);

/// What only the holder of a token knows. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

/// What a node asks for with a token.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The name that it wants.
    pub name: &'a NodeName,
    /// The role that it wants; `None` takes the token's.
    pub role: Option<Role>,
}

impl Token {
    /// How many random bytes make one.
    pub const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;

    /// A token for the mesh whose authority has this key, of random bytes.
    pub fn new(pin: Fingerprint, random: [u8; Self::RANDOM_BYTES]) -> Self {
        let mut id = [0; ID_BYTES];
        let mut secret = [0; SECRET_BYTES];
        id.copy_from_slice(&random[..ID_BYTES]);
        secret.copy_from_slice(&random[ID_BYTES..]);
        Self { pin, id: TokenId(id), secret: Secret(secret) }
    }

    /// A token of the system's random bytes.
    ///
    /// # Errors
    /// `Random`
    pub fn draw(pin: Fingerprint) -> Result<Self, crate::identity::Error> {
        Ok(Self::new(pin, crate::identity::random()?))
    }

    /// Which mesh it may be shown to: the fingerprint of the authority's key.
    pub fn pin(&self) -> Fingerprint {
        self.pin
    }

    /// Its public name.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// What only its holder knows.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The whole token, to be given to whoever joins.
    pub fn reveal(&self) -> String {
        format!("{VERSION}.{}.{}.{}", self.pin, self.id, URL_SAFE_NO_PAD.encode(self.secret.0))
    }
}

impl Secret {
    /// What is kept of it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }

    pub(crate) fn bytes(&self) -> [u8; SECRET_BYTES] {
        self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }
}

impl TokenId {
    pub(crate) fn bytes(self) -> [u8; ID_BYTES] {
        self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", hex::encode(self.0))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}.…", self.pin, self.id)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A text that is no token. It does not say which text: parts of it may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no token: copy all of what `starlane token` printed, from `sl1.` to its end")]
pub struct TokenError;

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits = text.strip_prefix('t').ok_or(TokenError)?;
        let mut id = [0; ID_BYTES];
        hex::decode_to_slice(digits, &mut id).map_err(|_| TokenError)?;
        let read = Self(id);
        if read.to_string() == text { Ok(read) } else { Err(TokenError) }
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<_> = text.trim().split('.').collect();
        let [VERSION, pin, id, secret] = parts[..] else { return Err(TokenError) };
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError)?;
        Ok(Self {
            pin: pin.parse().map_err(|_| TokenError)?,
            id: id.parse()?,
            secret: Secret(secret.try_into().map_err(|_| TokenError)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let random: Vec<u8> = (0..40).map(|byte| byte * 6 + 1).collect();
        Token::new(Fingerprint([0xab; 32]), random.try_into().unwrap())
    }

    #[test]
    fn what_is_revealed_is_read_again_and_nothing_else_is() {
        let text = token().reveal();
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()), "as it is pasted");
        assert!(text.starts_with(&format!("sl1.{}.t01070d13191f252b.", "ab".repeat(32))), "{text}");
        for at in 0..text.len() {
            assert_eq!(text[..at].parse::<Token>(), Err(TokenError), "{at}");
        }
        for wrong in [
            text.replace("sl1", "sl2"),
            text.replace("abab", "ABAB"),
            text.replace(".t", "."),
            text.replace(".t01", ".t0"),
            text.clone() + "A",
            text.clone() + ".A",
            text.clone() + "=",
        ] {
            assert_eq!(wrong.parse::<Token>(), Err(TokenError), "{wrong}");
        }
    }

    #[test]
    fn the_secret_is_printed_only_when_it_is_asked_for() {
        let token = token();
        let secret = token.reveal().rsplit_once('.').unwrap().1.to_owned();
        let bytes = hex::encode(token.secret.0);
        for shown in [
            token.to_string(),
            format!("{token:?}"),
            format!("{token:#?}"),
            format!("{:?}", token.secret()),
            TokenError.to_string(),
        ] {
            assert!(!shown.contains(&secret) && !shown.contains(&bytes), "{shown}");
        }
        assert!(token.to_string().contains(&token.id().to_string()));
    }
}
