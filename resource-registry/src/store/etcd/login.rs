//! Who we are to an etcd that lets only users in: a token, which is fetched for a password when there is none, and anew when
//! etcd does not take it any more.
//!
//! A token that was not used for five minutes is gone, and all are when etcd starts or its users change. What etcd refuses
//! for that it surely did not do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use super::config::EtcdUser;
use super::rpc::{AuthenticateRequest, AuthenticateResponse};
use crate::store::Error;

/// How long etcd is not bothered again with a password that it refused: looking at one costs it a tenth of a second.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// A user, and what he was last answered.
pub(super) struct Login {
    /// What the etcd is called in errors.
    name: Arc<str>,
    user: EtcdUser,
    held: tokio::sync::Mutex<Held>,
}

enum Held {
    Nothing,
    Token(Token),
    /// This etcd lets everybody in.
    NotNeeded,
    Refused(Error, Instant),
}

/// What shows who asks. Not printed.
#[derive(Clone, PartialEq)]
pub(super) struct Token(MetadataValue<Ascii>);

/// Why there is no token.
pub(super) enum Refused {
    /// Nobody answered, or with something else.
    Status(Status),
    /// The user is not let in.
    Denied(Error),
}

impl Login {
    pub(super) fn new(name: Arc<str>, user: EtcdUser) -> Self {
        Self { name, user, held: tokio::sync::Mutex::new(Held::Nothing) }
    }

    /// The token that is held, or one that is asked for now; `None` when none is needed. Several who want one wait for the
    /// same.
    pub(super) async fn token<F>(
        &self,
        ask: impl FnOnce(AuthenticateRequest) -> F,
    ) -> Result<Option<Token>, Refused>
    where
        F: Future<Output = Result<AuthenticateResponse, Status>>,
    {
        let mut held = self.held.lock().await;
        match &*held {
            Held::Token(token) => return Ok(Some(token.clone())),
            Held::NotNeeded => return Ok(None),
            Held::Refused(error, at) if at.elapsed() < REFUSED_FOR => {
                return Err(Refused::Denied(error.clone()));
            }
            Held::Refused(..) | Held::Nothing => {}
        }
        let EtcdUser { name, password } = &self.user;
        let read = tokio::fs::read_to_string(password).await;
        let read = read.map_err(|error| Refused::Denied(self.denied(&error.to_string())))?;
        let secret = read.strip_suffix('\n').unwrap_or(&read);
        let secret = secret.strip_suffix('\r').unwrap_or(secret).to_owned();
        let refused = match ask(AuthenticateRequest { name: name.clone(), password: secret }).await {
            Ok(AuthenticateResponse { token }) => match MetadataValue::try_from(token) {
                Ok(mut token) => {
                    token.set_sensitive(true);
                    let token = Token(token);
                    *held = Held::Token(token.clone());
                    return Ok(Some(token));
                }
                Err(_) => self.denied("etcd answered with a token that cannot be shown"),
            },
            Err(status) if status.message().contains("authentication is not enabled") => {
                tracing::warn!(etcd = %self.name, "a user is named, and etcd lets everybody in");
                *held = Held::NotNeeded;
                return Ok(None);
            }
            Err(status) if status.code() == Code::InvalidArgument => self.denied(status.message()),
            Err(status) => return Err(Refused::Status(status)),
        };
        *held = Held::Refused(refused.clone(), Instant::now());
        Err(Refused::Denied(refused))
    }

    /// A token was not taken, so the next who wants one asks for another, unless somebody did already.
    pub(super) async fn forget(&self, token: &Token) {
        let mut held = self.held.lock().await;
        if matches!(&*held, Held::Token(now) if now == token) {
            *held = Held::Nothing;
        }
    }

    /// By now a token is needed.
    pub(super) async fn ask_again(&self) {
        let mut held = self.held.lock().await;
        if matches!(&*held, Held::NotNeeded) {
            *held = Held::Nothing;
        }
    }

    fn denied(&self, reason: &str) -> Error {
        let EtcdUser { name, password } = &self.user;
        let reason = format!("user `{name}` with the password in {}: {reason}", password.display());
        Error::Denied { file: self.name.clone(), reason: reason.into() }
    }
}

/// A request that shows a token.
pub(super) fn under<T>(token: Option<&Token>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(Token(token)) = token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}

/// Whether something was refused for its token alone, so that it was not done and may be under another.
pub(super) fn is_stale(status: &Status) -> bool {
    match status.code() {
        Code::Unauthenticated => true,
        // What releases before 3.5.2 or so say of the same: they know no code for it.
        Code::Unknown => status.message() == "auth: revision in header is old",
        Code::InvalidArgument => {
            let unnamed = status.message().contains("user name is empty");
            unnamed || status.message().contains("revision of auth store is old")
        }
        _ => false,
    }
}
