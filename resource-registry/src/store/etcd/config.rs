//! How a registry is kept in etcd, and the address that says where: `etcd://HOST:PORT,HOST:PORT/PREFIX?NAME=VALUE&…`.
//!
//! An address is remembered and shown, so it names the files of secrets and never a secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout::Layout;

/// The port of etcd when an address names none.
const PORT: u16 = 2379;

/// How a registry is kept in etcd.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// The members of the etcd, as `HOST:PORT`.
    pub members: Vec<String>,
    /// What keeps others from reading along; `None` for connections in plaintext.
    pub tls: Option<EtcdTls>,
    /// The user of etcd that the registry is kept as; `None` where etcd asks for none, or takes the name in the certificate.
    pub user: Option<EtcdUser>,
    /// The mesh that has the registry: the first that opens it, and no other from then on. `None` does not ask.
    pub owner: Option<String>,
    /// What all keys begin with; registries with different ones do not see each other.
    pub prefix: String,
    /// The most commits that wait to be written; the next is answered [`Error::Busy`](crate::store::Error::Busy).
    pub queue_max: usize,
    /// Memory for records that were read or written, in bytes.
    pub cache_bytes: u64,
    /// How long opening waits for etcd.
    pub open_timeout: Duration,
    /// How long one member has for an answer before another is asked.
    pub try_timeout: Duration,
    /// How long a commit may take before its outcome is unknown.
    pub commit_timeout: Duration,
    /// How long a read may take.
    pub read_timeout: Duration,
    /// Whether etcd is told to forget what its keys were before, which concerns everybody who uses that etcd.
    pub forgets: bool,
    /// How long it remembers at least.
    pub forget_after: Duration,
}

/// How an etcd that speaks TLS is known, and how it knows who connects. All are PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// The certificates of the authorities that its members are certified by.
    pub ca: PathBuf,
    /// The certificate that is shown to it, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// Its name.
    pub name: String,
    /// The file of its password, which is read whenever etcd asks for it; a line end after it does not count.
    pub password: PathBuf,
}

/// Why an address is none of an etcd. Says nothing of what may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It does not begin with `etcd://` or `etcds://`.
    #[error("an address of an etcd begins with `etcd://`, or with `etcds://` for one that speaks TLS")]
    Scheme,
    /// A member is no `HOST:PORT`.
    #[error("`{0}` is no `HOST:PORT`")]
    Member(String),
    /// It has a name and a password before its members.
    #[error("an address has no password in it: name a file with `?user=NAME&password-file=FILE`")]
    Password,
    /// Something behind `?` is none of what can stand there.
    #[error("behind `?` stand `ca`, `cert`, `key`, `user` and `password-file`, not `{0}`")]
    Option(String),
    /// Something behind `?` has no value, or two.
    #[error("behind `?`, `{0}=VALUE` stands once")]
    Value(&'static str),
    /// It has no authority to believe.
    #[error("an `etcds://` address names the certificate of its authority: `?ca=FILE`")]
    Ca,
    /// It says how to speak TLS, and is to be in plaintext.
    #[error("`ca`, `cert` and `key` are of TLS: write `etcds://`")]
    Plaintext,
    /// Of two that belong together only one is there.
    #[error("`{0}` and `{1}` are named together")]
    Apart(&'static str, &'static str),
}

impl EtcdConfig {
    /// The defaults, on `etcd://HOST:PORT[,HOST:PORT]…[/PREFIX]`, or `etcds://…?ca=FILE[&cert=FILE&key=FILE]` for one that
    /// speaks TLS; either may name a user, with `user=NAME&password-file=FILE` behind `?`.
    ///
    /// # Errors
    /// When the address is none.
    pub fn at(address: &str) -> Result<Self, AddressError> {
        let (tls, rest) = match (address.strip_prefix("etcd://"), address.strip_prefix("etcds://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(AddressError::Scheme),
        };
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (members, prefix) = place.split_once('/').unwrap_or((place, ""));
        if rest.split('?').next().is_some_and(|place| place.contains('@')) {
            return Err(AddressError::Password);
        }
        let Options { ca, cert, key, user, password } = Options::read(options)?;
        let tls = match (tls, ca) {
            (true, Some(ca)) => {
                let client = both(("cert", cert), ("key", key))?;
                Some(EtcdTls { ca: ca.into(), client: client.map(|(cert, key)| (cert.into(), key.into())) })
            }
            (true, None) => return Err(AddressError::Ca),
            (false, None) if cert.is_none() && key.is_none() => None,
            (false, _) => return Err(AddressError::Plaintext),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(AddressError::Password);
        }
        let user = both(("user", user), ("password-file", password))?;
        let prefix = match prefix.trim_matches('/') {
            "" => "/starlane/".to_owned(),
            prefix => format!("/{prefix}/"),
        };
        Ok(Self {
            members: members.split(',').map(member).collect::<Result<_, AddressError>>()?,
            tls,
            user: user.map(|(name, password)| EtcdUser { name: name.to_owned(), password: password.into() }),
            prefix,
            owner: None,
            queue_max: 4_096,
            cache_bytes: 64 * 1024 * 1024,
            open_timeout: Duration::from_secs(10),
            try_timeout: Duration::from_secs(2),
            commit_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5),
            forgets: true,
            forget_after: Duration::from_secs(300),
        })
    }

    /// The same with its files found from a folder, so that it means the same wherever it is read next.
    #[must_use]
    pub fn within(mut self, folder: &Path) -> Self {
        if let Some(EtcdTls { ca, client }) = &mut self.tls {
            *ca = folder.join(&*ca);
            for file in client.iter_mut().flat_map(|(cert, key)| [cert, key]) {
                *file = folder.join(&*file);
            }
        }
        if let Some(user) = &mut self.user {
            user.password = folder.join(&user.password);
        }
        self
    }

    /// Where it is, without what it takes to be let in; what it is called in errors.
    pub fn place(&self) -> String {
        let scheme = if self.tls.is_some() { "etcds" } else { "etcd" };
        format!("{scheme}://{}{}", self.members.join(","), self.prefix.trim_end_matches('/'))
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::new(self.prefix.clone().into_bytes())
    }
}

impl fmt::Display for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())?;
        let mut options = Vec::new();
        if let Some(EtcdTls { ca, client }) = &self.tls {
            options.push(format!("ca={}", ca.display()));
            if let Some((cert, key)) = client {
                options.extend([format!("cert={}", cert.display()), format!("key={}", key.display())]);
            }
        }
        if let Some(EtcdUser { name, password }) = &self.user {
            options.extend([format!("user={name}"), format!("password-file={}", password.display())]);
        }
        match &*options {
            [] => Ok(()),
            options => write!(f, "?{}", options.join("&")),
        }
    }
}

/// What stands behind `?`.
#[derive(Default)]
struct Options<'a> {
    ca: Option<&'a str>,
    cert: Option<&'a str>,
    key: Option<&'a str>,
    user: Option<&'a str>,
    password: Option<&'a str>,
}

impl<'a> Options<'a> {
    fn read(text: &'a str) -> Result<Self, AddressError> {
        let mut options = Self::default();
        for option in text.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let (name, place) = match name {
                "ca" => ("ca", &mut options.ca),
                "cert" => ("cert", &mut options.cert),
                "key" => ("key", &mut options.key),
                "user" => ("user", &mut options.user),
                "password-file" => ("password-file", &mut options.password),
                "password" => return Err(AddressError::Password),
                _ => return Err(AddressError::Option(name.to_owned())),
            };
            if value.is_empty() || place.replace(value).is_some() {
                return Err(AddressError::Value(name));
            }
        }
        Ok(options)
    }
}

type Named<'a> = (&'static str, Option<&'a str>);

fn both<'a>(one: Named<'a>, other: Named<'a>) -> Result<Option<(&'a str, &'a str)>, AddressError> {
    match (one.1, other.1) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        _ => Err(AddressError::Apart(one.0, other.0)),
    }
}

/// `HOST:PORT`, with etcd's port when there is none.
fn member(text: &str) -> Result<String, AddressError> {
    let wrong = || AddressError::Member(text.to_owned());
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address stands in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().map_err(|_| wrong())?),
        _ => (text, PORT),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    if valid { Ok(format!("{host}:{port}")) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_members_and_a_prefix() {
        let config = EtcdConfig::at("etcd://a:1,b,[::1]:3,[::1]/mesh/one/").unwrap();
        assert_eq!(config.members, ["a:1", "b:2379", "[::1]:3", "[::1]:2379"]);
        assert_eq!(config.to_string(), "etcd://a:1,b:2379,[::1]:3,[::1]:2379/mesh/one");
        assert_eq!(EtcdConfig::at("etcd://a").unwrap().prefix, "/starlane/");
        for wrong in
            ["", "a:1", "http://a:1", "etcd://", "etcd://a,,b", "etcd://a:x", "etcd://a b:1", "etcd://::1:2"]
        {
            assert!(EtcdConfig::at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_names_the_files_of_tls_and_of_a_password() {
        for text in [
            "etcds://a:1,b:2/mesh?ca=/ca.pem",
            "etcds://a:1/mesh?ca=ca.pem&cert=me.pem&key=me.key",
            "etcd://a:1/mesh?user=mesh&password-file=pass/word",
            "etcds://a:1/mesh?ca=ca.pem&cert=me.pem&key=me.key&user=mesh&password-file=/password",
        ] {
            assert_eq!(EtcdConfig::at(text).unwrap().to_string(), text);
        }
        let turned = EtcdConfig::at("etcds://a?password-file=w&key=k&ca=c&user=u&cert=p").unwrap();
        assert_eq!(turned.tls, Some(EtcdTls { ca: "c".into(), client: Some(("p".into(), "k".into())) }));
        assert_eq!(turned.user, Some(EtcdUser { name: "u".to_owned(), password: "w".into() }));
        assert_eq!(
            turned.within(Path::new("/etc")).to_string(),
            "etcds://a:2379/starlane?ca=/etc/c&cert=/etc/p&key=/etc/k&user=u&password-file=/etc/w"
        );
        use AddressError as E;
        for (wrong, why) in [
            ("etcds://a", E::Ca),
            ("etcds://a?", E::Ca),
            ("etcds://a?cert=p&key=k", E::Ca),
            ("etcds://a?ca=", E::Value("ca")),
            ("etcds://a?ca=c&ca=c", E::Value("ca")),
            ("etcds://a?ca=c&cert=p", E::Apart("cert", "key")),
            ("etcds://a?ca=c&user=u", E::Apart("user", "password-file")),
            ("etcds://a?ca=c&insecure=1", E::Option("insecure".to_owned())),
            ("etcd://a/mesh?ca=c", E::Plaintext),
            ("etcd://a/mesh?cert=p&key=k", E::Plaintext),
        ] {
            assert_eq!(EtcdConfig::at(wrong).unwrap_err(), why, "{wrong}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        for wrong in [
            "etcds://mesh:secret@a:1/mesh?ca=c",
            "etcd://mesh:secret@a",
            "etcd://a:1,mesh:sec/ret@b",
            "etcd://a?user=mesh&password=secret",
            "etcd://a?user=mesh:secret",
            "http://mesh:secret@a",
        ] {
            let error = EtcdConfig::at(wrong).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
