//! The tokens of a mesh as the registry has them: a resource `mesh:tokens:ID` for each, which ends with its time.

use std::time::Duration;

use gateway::TokenTerms;
use gateway::shapes::TokenInfo;
use mesh::identity::{Fingerprint, UnixSeconds, system_clock};
use mesh::token::{Found, OutOfReach, Token, TokenId, TokenRecord, Tokens};
use resource_registry::{Delete, Error, Registry, Reserved};
use starlane_core::{
    Agent, Base, Code, Kind, Point, Problem, PropertyChange, Resource, Revision, Status, Timestamp, Value,
};

use super::fresh::find;
use super::genesis::mesh_point;
use super::members;

/// The property that holds what is kept of a token.
const RECORD: &str = "record";
/// How many tokens can wait to be used; one more is refused as busy.
const TOKENS_MAX: usize = 1_000;

/// The tokens, for the nodes of the registry, which alone decide about them.
#[derive(Clone)]
pub(super) struct RegistryTokens {
    registry: Registry,
    by: Agent,
    /// The fingerprint of the authority's key, which tokens pin.
    pin: Fingerprint,
}

impl RegistryTokens {
    pub(super) fn new(registry: Registry, by: Agent, pin: Fingerprint) -> Self {
        Self { registry, by, pin }
    }

    /// Makes a token; its secret is told this once.
    pub(super) async fn make(&self, by: &Agent, terms: TokenTerms) -> Result<(Token, TokenInfo), Problem> {
        members::label_changes(terms.labels.keys().map(|key| (key, None)))?;
        if self.all()?.len() >= TOKENS_MAX {
            let mut problem =
                Problem::new(Code::Busy, format!("{TOKENS_MAX} tokens wait to be used already")).help(
                    "take back those that are not needed: `starlane token list`, `starlane token delete ID`",
                );
            problem.retry_after = Some(60);
            return Err(problem);
        }
        let token = Token::draw(self.pin).map_err(super::membership::broken)?;
        let mut record = TokenRecord::new(&token, terms.role, system_clock()(), terms.ttl.as_secs().max(1));
        record = record.labels(terms.labels);
        if let Some(name) = terms.name {
            record = record.only_for(name);
        }
        let json = serde_json::to_value(&record)
            .map_err(|error| Problem::new(Code::Internal, format!("a token as JSON: {error}")))?;
        // A little longer than it can be used, so that who is late is told that.
        let lease = self.registry.grant(terms.ttl + Duration::from_secs(60)).await?;
        let key = RECORD
            .parse()
            .map_err(|error: starlane_core::KeyError| Problem::new(Code::Internal, error.to_string()))?;
        let changes = vec![PropertyChange::Set { key, value: Value::from(json), lock: true }];
        let point = point(&token.id().to_string())?;
        let mut reserved = Reserved::new(point, Kind::of(Base::Base), changes, Status::ready());
        reserved.lease = Some(lease);
        self.registry.put_reserved(by, reserved).await?;
        Ok((token.clone(), info(&token.id().to_string(), &record)))
    }

    /// Those that can still be used.
    pub(super) fn list(&self) -> Result<Vec<TokenInfo>, Problem> {
        let now = system_clock()();
        let tokens = self.all()?;
        let usable = tokens.iter().filter_map(|resource| {
            let record = record(resource).filter(|record| record.expires > now)?;
            Some(info(resource.point.last(), &record))
        });
        Ok(usable.collect())
    }

    /// Takes one back.
    pub(super) async fn delete(&self, by: &Agent, id: &str) -> Result<(), Problem> {
        let missing = || {
            Problem::new(Code::NotFound, format!("no token is called `{}`", id.escape_debug())).help(
                "it was used, has expired, or never was: `starlane token list` shows those that are left",
            )
        };
        let id: TokenId = id.parse().map_err(|_| missing())?;
        match self.registry.delete_reserved(by, Delete::point(point(&id.to_string())?, false)).await {
            Ok(_) => Ok(()),
            Err(Error::NotFound(_)) => Err(missing()),
            Err(error) => Err(error.into()),
        }
    }

    fn all(&self) -> Result<Vec<std::sync::Arc<Resource>>, Problem> {
        let tokens = "mesh:tokens:*".parse()?;
        Ok(self.registry.select(&tokens, usize::MAX, None)?.resources)
    }
}

impl Tokens for RegistryTokens {
    async fn find(&self, id: TokenId) -> Result<Option<Found>, OutOfReach> {
        let point = point(&id.to_string()).map_err(|_| OutOfReach)?;
        // Another node of the registry may have made it just now.
        let found = find(&self.registry, &point).await.map_err(|_| OutOfReach)?;
        let Some(resource) = found else { return Ok(None) };
        let found = |record| Found { record, revision: resource.modified.0 };
        record(&resource).map(found).map(Some).ok_or(OutOfReach)
    }

    async fn take(&self, id: TokenId, revision: u64) -> Result<bool, OutOfReach> {
        let point = point(&id.to_string()).map_err(|_| OutOfReach)?;
        let delete = Delete { expect: Some(Revision(revision)), ..Delete::point(point, false) };
        match self.registry.delete_reserved(&self.by, delete).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_) | Error::RevisionConflict { .. }) => Ok(false),
            Err(error) => {
                tracing::warn!("a token cannot be taken: {error}");
                Err(OutOfReach)
            }
        }
    }
}

fn point(id: &str) -> Result<Point, Problem> {
    mesh_point("tokens", id)
}

fn record(resource: &Resource) -> Option<TokenRecord> {
    match resource.property(RECORD)? {
        Value::Json(json) => serde_json::from_value((**json).clone()).ok(),
        _ => None,
    }
}

fn info(id: &str, record: &TokenRecord) -> TokenInfo {
    let UnixSeconds(expires) = record.expires;
    TokenInfo {
        id: id.to_owned(),
        role: record.role,
        expires: Timestamp(expires.saturating_mul(1_000)),
        labels: record.labels.clone(),
        name: record.name.clone(),
    }
}
