//! What a token grants, and when it does not.

use std::collections::BTreeMap;

use starlane_core::{Key, NodeName, Role};

use super::{Asked, Secret, TokenRecord};
use crate::identity::UnixSeconds;

/// Why a token lets nobody join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// There is none of this name and secret: it was used, or was forgotten after its time.
    #[error("the token is not known: it was used already, or has expired")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It is for another role.
    #[error("the token is for a {token}, not for a {asked}")]
    WrongRole {
        /// The token's.
        token: Role,
        /// What was asked for.
        asked: Role,
    },
    /// It is for another name.
    #[error("the token is for a node called `{token}`, not `{asked}`")]
    WrongName {
        /// The token's.
        token: NodeName,
        /// What was asked for.
        asked: NodeName,
    },
}

/// What a token grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// As what its node is enrolled.
    pub role: Role,
    /// The labels that its node gets, whatever it says of itself.
    pub labels: BTreeMap<Key, String>,
}

/// What a token grants to whoever shows a secret and asks for something.
///
/// # Errors
/// Why it grants nothing. Whoever does not know the secret learns nothing but `Unknown`.
pub fn check(
    record: Option<&TokenRecord>,
    secret: &Secret,
    asked: Asked<'_>,
    now: UnixSeconds,
) -> Result<Granted, TokenRefused> {
    // Hashes are compared, so the time that this takes tells nothing of the secret.
    let record =
        record.filter(|record| record.secret == secret.fingerprint()).ok_or(TokenRefused::Unknown)?;
    if now >= record.expires {
        return Err(TokenRefused::Expired);
    }
    if let Some(role) = asked.role.filter(|role| *role != record.role) {
        return Err(TokenRefused::WrongRole { token: record.role, asked: role });
    }
    if let Some(name) = record.name.as_ref().filter(|name| *name != asked.name) {
        return Err(TokenRefused::WrongName { token: name.clone(), asked: asked.name.clone() });
    }
    Ok(Granted { role: record.role, labels: record.labels.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Fingerprint;
    use crate::token::{TTL_SECONDS, Token};

    #[test]
    fn a_token_grants_what_it_was_made_for_until_its_time_is_over() {
        let [edge, cloud]: [NodeName; 2] = ["edge", "cloud"].map(|name| name.parse().unwrap());
        let made = UnixSeconds(1_000);
        let [token, other] = [1, 2].map(|byte| Token::new(Fingerprint([0; 32]), [byte; 40]));
        let labels = BTreeMap::from([("tier".parse().unwrap(), "edge".to_owned())]);
        let record = TokenRecord::new(&token, Role::Leaf, made, TTL_SECONDS).labels(labels.clone());
        let named = record.clone().only_for(edge.clone());
        let granted = Ok(Granted { role: Role::Leaf, labels });
        let wrong_role = Err(TokenRefused::WrongRole { token: Role::Leaf, asked: Role::Relay });
        let wrong_name = Err(TokenRefused::WrongName { token: edge.clone(), asked: cloud.clone() });
        let (leaf, relay) = (Some(Role::Leaf), Some(Role::Relay));
        for (record, shown, name, role, after, expected) in [
            (Some(&record), &token, &cloud, leaf, 0, &granted),
            (Some(&record), &token, &cloud, None, 599, &granted),
            (Some(&named), &token, &edge, None, 599, &granted),
            (Some(&record), &token, &cloud, leaf, 600, &Err(TokenRefused::Expired)),
            (Some(&record), &token, &cloud, leaf, 1 << 40, &Err(TokenRefused::Expired)),
            (Some(&record), &token, &cloud, relay, 0, &wrong_role),
            (Some(&named), &token, &cloud, leaf, 0, &wrong_name),
            (Some(&record), &other, &cloud, leaf, 0, &Err(TokenRefused::Unknown)),
            (Some(&named), &other, &cloud, relay, 1 << 40, &Err(TokenRefused::Unknown)),
            (None, &token, &cloud, leaf, 0, &Err(TokenRefused::Unknown)),
        ] {
            let found = check(record, shown.secret(), Asked { name, role }, made.plus(after));
            assert_eq!(&found, expected);
        }
    }
}
