//! How a registry is kept in etcd, and the address that says where: `etcd://HOST:PORT,HOST:PORT/PREFIX?NAME=VALUE&…`. In its
//! prefix and its values `%40` is `@`, as in any address.
//!
//! An address is remembered and shown, so it names the files of secrets and never a secret.

use std::fmt::{self, Write as _};
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
    #[error(
        "an address has no password in it: name a file with `?user=NAME&password-file=FILE`; an `@` that is part of a prefix is \
         written `%40`"
    )]
    Password,
    /// Its prefix or its user has bytes that are no text.
    #[error("`{0}` is no text: its `%XX` stand for bytes that are not UTF-8")]
    Text(&'static str),
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
        // What is before it may be a password, wherever it stands.
        if place.contains('@') {
            return Err(AddressError::Password);
        }
        let Options { ca, cert, key, user, password } = Options::read(options)?;
        let tls = match (tls, ca) {
            (true, Some(ca)) => {
                let client = both(("cert", cert), ("key", key))?;
                Some(EtcdTls { ca, client })
            }
            (true, None) => return Err(AddressError::Ca),
            (false, None) if cert.is_none() && key.is_none() => None,
            (false, _) => return Err(AddressError::Plaintext),
        };
        let user = user.map(|user| text("user", bytes(&user).to_vec())).transpose()?;
        if user.as_ref().is_some_and(|user| user.contains(':')) {
            return Err(AddressError::Password);
        }
        let user = both(("user", user), ("password-file", password))?;
        let prefix = match prefix.trim_matches('/') {
            "" => "/starlane/".to_owned(),
            prefix => format!("/{}/", text("PREFIX", decoded(prefix))?),
        };
        Ok(Self {
            members: members.split(',').map(member).collect::<Result<_, AddressError>>()?,
            tls,
            user: user.map(|(name, password)| EtcdUser { name, password }),
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
        let prefix = self.prefix.strip_prefix('/').unwrap_or(&self.prefix);
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        // Slashes at its ends would be taken for those around it.
        let plain = if prefix.starts_with('/') || prefix.ends_with('/') { "" } else { "/" };
        format!("{scheme}://{}/{}", self.members.join(","), encoded(prefix.as_bytes(), plain))
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
            options.push(option("ca", ca));
            if let Some((cert, key)) = client {
                options.extend([option("cert", cert), option("key", key)]);
            }
        }
        if let Some(EtcdUser { name, password }) = &self.user {
            options.extend([option("user", Path::new(name)), option("password-file", password)]);
        }
        match &*options {
            [] => Ok(()),
            options => write!(f, "?{}", options.join("&")),
        }
    }
}

/// What stands behind `?`.
#[derive(Default)]
struct Options {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    user: Option<PathBuf>,
    password: Option<PathBuf>,
}

impl Options {
    fn read(text: &str) -> Result<Self, AddressError> {
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
            if value.is_empty() || place.replace(path(decoded(value))).is_some() {
                return Err(AddressError::Value(name));
            }
        }
        Ok(options)
    }
}

fn both<T, U>(
    one: (&'static str, Option<T>),
    other: (&'static str, Option<U>),
) -> Result<Option<(T, U)>, AddressError> {
    match (one.1, other.1) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        _ => Err(AddressError::Apart(one.0, other.0)),
    }
}

/// How an option stands behind `?`.
fn option(name: &str, value: &Path) -> String {
    format!("{name}={}", encoded(bytes(value), "/@:"))
}

/// Bytes as they stand in an address: all but letters, digits, `plain` and what never separates anything are written `%XX`.
fn encoded(bytes: &[u8], plain: &str) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let stays = c.is_ascii_alphanumeric() || !c.is_ascii() && !c.is_control() && !c.is_whitespace();
            if stays || "-._~+,;!$'()*".contains(c) || plain.contains(c) {
                out.push(c);
            } else {
                percent(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        percent(&mut out, chunk.invalid());
    }
    out
}

fn percent(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "%{byte:02X}");
    }
}

/// What stands in an address, with the bytes that each `%XX` stands for. A `%` before anything else is one.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (mut rest, mut out) = (text.as_bytes(), Vec::with_capacity(text.len()));
    while let Some((first, after)) = rest.split_first() {
        match (first, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                // Both are below 16.
                out.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn text(what: &'static str, bytes: Vec<u8>) -> Result<String, AddressError> {
    String::from_utf8(bytes).map_err(|_| AddressError::Text(what))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

#[cfg(unix)]
fn path(bytes: Vec<u8>) -> PathBuf {
    <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into()
}

/// Where paths are texts.
#[cfg(not(unix))]
fn path(bytes: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&bytes).into_owned().into()
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
    use proptest::prelude::*;

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
    fn what_separates_is_written_in_percent() {
        let config =
            EtcdConfig::at("etcds://a:1/team%40home%3F?ca=/a%26b/100%25%zz&user=a%26b&password-file=p@q:r")
                .unwrap();
        assert_eq!(config.prefix, "/team@home?/");
        assert_eq!(config.tls.as_ref().unwrap().ca, Path::new("/a&b/100%%zz"));
        assert_eq!(config.user.as_ref().unwrap().name, "a&b");
        assert_eq!(
            config.to_string(),
            "etcds://a:1/team%40home%3F?ca=/a%26b/100%25%25zz&user=a%26b&password-file=p@q:r"
        );
        for (wrong, why) in [
            ("etcd://a/%ff", AddressError::Text("PREFIX")),
            ("etcd://a?user=%ff&password-file=p", AddressError::Text("user")),
            ("etcd://a?user=mesh%3Asecret&password-file=p", AddressError::Password),
            ("etcd://a/team@home", AddressError::Password),
        ] {
            assert_eq!(EtcdConfig::at(wrong).unwrap_err(), why, "{wrong}");
        }
        assert!(AddressError::Password.to_string().contains("%40"));
    }

    fn path() -> impl Strategy<Value = PathBuf> {
        let bytes = prop_oneof![
            "[/&%@?=:# \\n\u{85}äa0]{1,12}".prop_map(String::into_bytes),
            prop::collection::vec(1..=u8::MAX, 1..12),
        ];
        bytes.prop_map(super::path)
    }

    proptest! {
        #[test]
        fn an_address_that_is_printed_is_read_as_the_same(
            prefix in "[/&%@?=:# \\n\u{85}äa0]{1,12}",
            (ca, cert, key, password) in (path(), path(), path(), path()),
            user in "[/&%@?=# \\n\u{85}äa0]{1,12}",
            which in 0..8,
        ) {
            let tls = EtcdTls { ca, client: (which & 1 > 0).then_some((cert, key)) };
            let config = EtcdConfig {
                prefix: format!("/{prefix}/"),
                tls: (which & 2 > 0).then_some(tls),
                user: (which & 4 > 0).then_some(EtcdUser { name: user, password }),
                ..EtcdConfig::at("etcd://a:1,[::1]:2").unwrap()
            };
            let printed = config.to_string();
            prop_assert!(!printed.contains(char::is_whitespace), "{}", printed);
            let read = EtcdConfig::at(&printed).unwrap();
            prop_assert_eq!(read.members, config.members);
            prop_assert_eq!((read.prefix, read.tls, read.user), (config.prefix, config.tls, config.user));
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
