//! Etcds that are really started, for the tests of whatever keeps a registry in one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// An etcd of some members on this machine; it ends with this.
pub struct Etcd {
    members: Vec<Member>,
    /// What stands behind `?` in its addresses.
    options: String,
    _folder: tempfile::TempDir,
}

/// One process of it, on data that outlives it.
struct Member {
    address: String,
    command: Command,
    process: Child,
}

impl Etcd {
    /// Starts one; it takes a moment until it answers. `None` where there is no etcd, which is said.
    ///
    /// # Panics
    /// When there is none though `STARLANE_REQUIRE_ETCD` is set.
    pub fn start(members: usize) -> Option<Self> {
        Self::launch(members, None)
    }

    /// The same, which speaks TLS with `cert.pem` and `key.pem` of a folder, and wants a certificate of its `ca.pem` of everybody.
    pub fn start_with_tls(members: usize, files: &Path) -> Option<Self> {
        Self::launch(members, Some(files))
    }

    fn launch(members: usize, files: Option<&Path>) -> Option<Self> {
        let program = program()?;
        let scheme = if files.is_some() { "https" } else { "http" };
        let folder = tempfile::tempdir().expect("a temporary folder");
        // All at once, so that they are different.
        let free: Vec<TcpListener> =
            (0..members * 2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<u16> =
            free.iter().map(|free| free.local_addr().expect("it is bound").port()).collect();
        drop(free);
        let peer = |number: usize| format!("http://127.0.0.1:{}", ports[members + number]);
        let cluster: Vec<String> = (0..members).map(|number| format!("m{number}={}", peer(number))).collect();
        let start = |number: usize| {
            let address = format!("127.0.0.1:{}", ports[number]);
            let mut command = Command::new(&program);
            command
                .args(["--name", &format!("m{number}"), "--data-dir"])
                .arg(folder.path().join(number.to_string()))
                .arg(format!("--listen-client-urls={scheme}://{address}"))
                .arg(format!("--advertise-client-urls={scheme}://{address}"))
                .arg(format!("--listen-peer-urls={}", peer(number)))
                .arg(format!("--initial-advertise-peer-urls={}", peer(number)))
                .arg(format!("--initial-cluster={}", cluster.join(",")))
                .args(["--heartbeat-interval=50", "--election-timeout=500", "--logger=zap"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if let Some(files) = files {
                let file = |option: &str, name: &str| format!("--{option}={}", files.join(name).display());
                command.args([file("cert-file", "cert.pem"), file("key-file", "key.pem")]);
                command.args([file("trusted-ca-file", "ca.pem"), "--client-cert-auth".to_owned()]);
            }
            let process = command.spawn().expect("etcd starts");
            Member { address, command, process }
        };
        let members = (0..members).map(start).collect();
        let options = files.map(|files| {
            let file = |name: &str| files.join(name).display().to_string();
            format!("?ca={}&cert={}&key={}", file("ca.pem"), file("cert.pem"), file("key.pem"))
        });
        Some(Self { members, options: options.unwrap_or_default(), _folder: folder })
    }

    /// One for all tests of a process that run at the same time; the last ends it.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Etcd>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(etcd) = shared.upgrade() {
            return Some(etcd);
        }
        let etcd = Arc::new(Self::start(1)?);
        *shared = Arc::downgrade(&etcd);
        Some(etcd)
    }

    /// How many members it has.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Where a member is, as `HOST:PORT`.
    pub fn member(&self, member: usize) -> &str {
        &self.members[member].address
    }

    /// The address of a registry of its own under a prefix.
    pub fn address(&self, prefix: &str) -> String {
        let members: Vec<&str> = self.members.iter().map(|member| &*member.address).collect();
        let scheme = if self.options.is_empty() { "etcd" } else { "etcds" };
        format!("{scheme}://{}/{prefix}{}", members.join(","), self.options)
    }

    /// From now on it lets only users in, and one of a name into all keys under a prefix; it must be running.
    pub fn admit(&self, user: &str, password: &str, prefix: &str) {
        let role = format!("{{\"name\":\"{user}\"}}");
        self.administer("", "role/add", "{\"name\":\"root\"}");
        self.administer("", "role/add", &role);
        for (name, password) in [("root", "of-root"), (user, password)] {
            let one = format!("{{\"name\":\"{name}\",\"password\":\"{password}\"}}");
            self.administer("", "user/add", &one);
            self.administer("", "user/grant", &format!("{{\"user\":\"{name}\",\"role\":\"{name}\"}}"));
        }
        let (key, end) = (base64(prefix.as_bytes()), base64(&after(prefix)));
        let allowed = format!("{{\"permType\":\"READWRITE\",\"key\":\"{key}\",\"range_end\":\"{end}\"}}");
        self.administer("", "role/grant", &format!("{{\"name\":\"{user}\",\"perm\":{allowed}}}"));
        self.administer("", "enable", "{}");
    }

    /// A token for [`Etcd::administer`].
    pub fn root(&self) -> String {
        let root = self.administer("", "authenticate", "{\"name\":\"root\",\"password\":\"of-root\"}");
        let token = root.split("\"token\":\"").nth(1).and_then(|rest| rest.split('"').next());
        token.expect("root is let in").to_owned()
    }

    /// Asks its first member for something of its users, under a token.
    pub fn administer(&self, token: &str, what: &str, json: &str) -> String {
        let mut stream = TcpStream::connect(&self.members[0].address).expect("etcd is there");
        let shown = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
        let length = format!("Content-Length: {}\r\n", json.len());
        write!(stream, "POST /v3/auth/{what} HTTP/1.0\r\n{shown}{length}\r\n{json}").expect("etcd listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("etcd answers");
        assert!(answer.contains(" 200 "), "{what}: {answer}");
        answer
    }

    /// Stops a member where it is, as a machine does that is asleep.
    pub fn pause(&self, member: usize) {
        self.signal(member, "-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self, member: usize) {
        self.signal(member, "-CONT");
    }

    fn signal(&self, member: usize, signal: &str) {
        let pid = self.members[member].process.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(sent.success(), "the member still runs");
    }

    /// Kills a member at once, as a crash does.
    pub fn kill(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.process.kill().expect("it can be killed");
        member.process.wait().expect("it ends");
    }

    /// Starts it again on its data.
    pub fn restart(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.process = member.command.spawn().expect("etcd starts");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may be dead already.
            _ = member.process.kill();
            _ = member.process.wait();
        }
    }
}

/// Where the keys under a prefix end.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is something") += 1;
    end
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

fn program() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate is in the repository");
    let found = Command::new("scripts/etcd").arg("--present").current_dir(root).output();
    let found = found.expect("the script runs");
    if found.status.success() {
        return Some(root.join(String::from_utf8_lossy(&found.stdout).trim()));
    }
    assert!(std::env::var_os("STARLANE_REQUIRE_ETCD").is_none(), "there is no etcd: run scripts/etcd");
    eprintln!("skipped: there is no etcd here; scripts/etcd brings one");
    None
}
