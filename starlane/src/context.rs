//! Contexts: named nodes that the command line can talk to besides the one of the data folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gateway::Trust;
use serde::{Deserialize, Serialize};
use starlane_core::{Code, Problem};

use crate::data;

/// How many contexts one file may hold.
const CONTEXTS_MAX: usize = 256;

/// A node and the token to talk to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Where its API answers: `http://127.0.0.1:4343`, or with `https`.
    pub api: String,
    /// The file with the authorities that its certificate is believed by; none means those that this machine believes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// What opens it; never shown.
    pub token: String,
}

/// The contexts of a person, in a file that only that person can read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Contexts {
    /// Which one is used when none is named; none means the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// The platform's place for the file, from the environment: `$STARLANE_CONFIG`, else `starlane/contexts.json` in
/// `$XDG_CONFIG_HOME`, `~/.config` or, on Windows, `%APPDATA%`. `None` when there is no home.
pub fn platform_file(env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if let Some(file) = env("STARLANE_CONFIG") {
        return Some(file);
    }
    let base = if cfg!(windows) {
        env("APPDATA")?
    } else if let Some(xdg) = env("XDG_CONFIG_HOME") {
        xdg
    } else {
        env("HOME")?.join(".config")
    };
    Some(base.join("starlane").join("contexts.json"))
}

impl Context {
    /// Whose certificates are believed.
    pub fn trust(&self) -> Trust {
        self.ca.clone().map_or(Trust::Machine, Trust::Authorities)
    }
}

impl Contexts {
    /// Reads the file; one that does not exist holds no context.
    ///
    /// # Errors
    /// `E-USAGE` when it cannot be read or is not a file of contexts.
    pub fn load(file: &Path) -> Result<Self, Problem> {
        let wrong = |why: String| {
            Problem::new(Code::Usage, format!("the contexts in {} cannot be read: {why}", file.display()))
                .help("repair or remove the file; `starlane context add` makes a new one")
        };
        let text = data::read_bounded(file).map_err(|error| wrong(error.to_string()))?;
        text.map_or_else(
            || Ok(Self::default()),
            |text| serde_json::from_str(&text).map_err(|error| wrong(error.to_string())),
        )
    }

    /// Writes the file, readable by its owner alone.
    ///
    /// # Errors
    /// `E-USAGE` when it cannot be written.
    pub fn save(&self, file: &Path) -> Result<(), Problem> {
        let write = || -> io::Result<()> {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
            text.push('\n');
            data::write_private(file, &text)
        };
        write().map_err(|error| {
            Problem::new(
                Code::Usage,
                format!("the contexts cannot be written to {}: {error}", file.display()),
            )
        })
    }

    /// The context of a name.
    ///
    /// # Errors
    /// `E-NOT-FOUND` that lists the names there are.
    pub fn get(&self, name: &str) -> Result<&Context, Problem> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let help = if known.is_empty() {
                "add one: `starlane context add NAME --api URL --token-file FILE`".to_owned()
            } else {
                format!("there are: {}", known.join(", "))
            };
            Problem::new(Code::NotFound, format!("no context is called `{name}`")).help(help)
        })
    }

    /// Adds a context or replaces the one of that name.
    ///
    /// # Errors
    /// `E-USAGE` when the name or the address is not one; `E-TOO-LARGE` when there are too many.
    pub fn add(&mut self, name: &str, context: Context) -> Result<(), Problem> {
        let proper = !name.is_empty()
            && name.len() <= 63
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !proper {
            return Err(Problem::new(Code::Usage, format!("`{name}` cannot name a context"))
                .help("up to 63 letters, digits, `-`, `_` and `.`"));
        }
        check_address(&context.api)?;
        if context.ca.is_some() && !context.api.starts_with("https://") {
            return Err(Problem::new(Code::Usage, format!("{} shows no certificate to check", context.api))
                .help("leave `--ca` out, or write the address with `https`"));
        }
        if self.contexts.len() >= CONTEXTS_MAX && !self.contexts.contains_key(name) {
            return Err(Problem::new(Code::TooLarge, format!("there are {CONTEXTS_MAX} contexts already"))
                .help("remove one: `starlane context rm NAME`"));
        }
        self.contexts.insert(name.to_owned(), context);
        Ok(())
    }

    /// Removes a context; when it was the current one, the data folder is used again.
    ///
    /// # Errors
    /// `E-NOT-FOUND`.
    pub fn remove(&mut self, name: &str) -> Result<(), Problem> {
        self.get(name)?;
        self.contexts.remove(name);
        if self.current.as_deref() == Some(name) {
            self.current = None;
        }
        Ok(())
    }
}

/// Checks that a text is an address of an API: `http://HOST:PORT` or `https://HOST:PORT`.
fn check_address(api: &str) -> Result<(), Problem> {
    let host = api.strip_prefix("http://").or_else(|| api.strip_prefix("https://")).unwrap_or_default();
    if host.is_empty() || host.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return Err(Problem::new(Code::Usage, format!("`{api}` is not the address of an API"))
            .help("write it as `http://HOST:PORT` or `https://HOST:PORT`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(api: &str) -> Context {
        Context { api: api.into(), ca: None, token: "secret".into() }
    }

    #[test]
    fn contexts_survive_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/contexts.json");
        let mut contexts = Contexts::load(&file).unwrap();
        contexts.add("prod", context("http://10.0.0.1:4343")).unwrap();
        let private = Context { ca: Some("/etc/ca.pem".into()), ..context("https://cloud.example.com:4343") };
        contexts.add("cloud", private).unwrap();
        contexts.current = Some("prod".into());
        contexts.save(&file).unwrap();
        assert_eq!(Contexts::load(&file).unwrap(), contexts);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn removing_the_current_one_falls_back_to_the_data_folder() {
        let mut contexts = Contexts::default();
        contexts.add("prod", context("http://a:1")).unwrap();
        contexts.current = Some("prod".into());
        contexts.remove("prod").unwrap();
        assert_eq!(contexts, Contexts::default());
        assert_eq!(contexts.remove("prod").unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn what_is_no_name_or_address_is_refused() {
        let mut contexts = Contexts::default();
        for (name, api, code) in [
            ("", "http://a:1", Code::Usage),
            ("a b", "http://a:1", Code::Usage),
            ("a", "a:1", Code::Usage),
            ("a", "http://", Code::Usage),
            ("a", "http://a:1/v1", Code::Usage),
            ("a", "https://", Code::Usage),
            ("a", "ftp://a:1", Code::Usage),
        ] {
            assert_eq!(contexts.add(name, context(api)).unwrap_err().code, code, "{name} {api}");
        }
        let plain = Context { ca: Some("/etc/ca.pem".into()), ..context("http://a:1") };
        assert_eq!(contexts.add("a", plain).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("contexts.json");
        fs::write(&file, "{").unwrap();
        let problem = Contexts::load(&file).unwrap_err();
        assert!(problem.detail.contains("contexts.json"), "{problem}");
    }
}
