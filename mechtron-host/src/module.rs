//! Modules: compiled once for each content, off the shards, within bounds.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use starlane_core::{Code, Digest, Problem};
use tokio::sync::Semaphore;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::contract::Contract;
use crate::engine::wasmer::Wasmer;
use crate::engine::wasmi::Wasmi;
use crate::engine::{self, Engine};
use crate::inspect::{Kind, check_abi, inspect, invalid};
use crate::instance::Instance;
use crate::limits::{Config, EngineKind, Limits, ModuleLimits};
use crate::rewrite;

/// A module that can be run. Its code is freed with the last who holds it.
pub struct Module {
    digest: Digest,
    kind: Kind,
    contract: Contract,
    code: Box<dyn engine::Code>,
}

impl Module {
    /// The SHA-256 of the module as it was given.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it says about its mechtrons and their messages.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The names of its mechtrons; empty for a module without a contract.
    pub fn mechtrons(&self) -> impl Iterator<Item = &str> {
        self.contract.mechtrons()
    }

    /// Whether it is a plain WASI command, which has an instance for each message and no state.
    pub fn is_command(&self) -> bool {
        self.kind == Kind::Command
    }

    pub(crate) fn code(&self) -> &dyn engine::Code {
        &*self.code
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Makes modules.
pub(crate) struct Modules {
    maker: Arc<Maker>,
    runtime: tokio::runtime::Handle,
    permits: Arc<Semaphore>,
    time: Duration,
    known_max: usize,
    known: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<Known>>>>,
}

struct Maker {
    engine: Box<dyn Engine>,
    cache: Option<Cache>,
    module: ModuleLimits,
    limits: Arc<Limits>,
    clock: Clock,
}

/// What is known of a module.
enum Known {
    Nothing,
    Made(Weak<Module>),
    /// Refused before: the same answer costs nothing again.
    Refused(Problem),
}

impl Modules {
    pub(crate) fn new(config: &Config) -> std::io::Result<Self> {
        let engine: Box<dyn Engine> = match config.engine {
            EngineKind::Wasmer => Box::new(Wasmer::new(config.compile_threads)),
            EngineKind::Wasmi => Box::new(Wasmi),
        };
        let configuration = format!("{}; rewriter {}", engine.fingerprint(), rewrite::VERSION);
        let cache = config.cache.as_deref().map(|folder| Cache::open(folder, configuration)).transpose()?;
        let (module, limits) = (config.module.clone(), Arc::new(config.limits.clone()));
        Ok(Self {
            maker: Arc::new(Maker { engine, cache, module, limits, clock: config.clock.clone() }),
            runtime: config.runtime.clone(),
            permits: Arc::new(Semaphore::new(config.compiles.max(1))),
            time: config.compile_time,
            known_max: config.modules.max(1),
            known: Mutex::default(),
        })
    }

    pub(crate) async fn compile(&self, wasm: Bytes) -> Result<Arc<Module>, Problem> {
        // A size check before hashing: what is too large is not worth a pass.
        if wasm.len() > self.maker.module.bytes {
            let detail =
                format!("the module has {} bytes; {} may be at most", wasm.len(), self.maker.module.bytes);
            return Err(Problem::new(Code::TooLarge, detail));
        }
        let digest = Digest(Sha256::digest(&wasm).into());
        let known = self.known(digest);
        let mut known = known.lock().await;
        match &*known {
            Known::Made(module) => {
                if let Some(module) = module.upgrade() {
                    return Ok(module);
                }
            }
            Known::Refused(problem) => return Err(problem.clone()),
            Known::Nothing => {}
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let maker = Arc::clone(&self.maker);
        let work = self.runtime.spawn_blocking(move || {
            let _permit = permit;
            maker.make(digest, &wasm)
        });
        let made = match tokio::time::timeout(self.time, work).await {
            Ok(Ok(made)) => made,
            Ok(Err(panic)) => Err(invalid(format!("the compiler failed on it: {panic}"))),
            Err(_) => Err(invalid(format!("it took more than {} s to compile", self.time.as_secs()))
                .help("make its functions smaller")),
        };
        *known = match &made {
            Ok(module) => Known::Made(Arc::downgrade(module)),
            Err(problem) => Known::Refused(problem.clone()),
        };
        made
    }

    fn known(&self, digest: Digest) -> Arc<tokio::sync::Mutex<Known>> {
        let mut known = self.known.lock();
        if known.len() >= self.known_max && !known.contains_key(&digest) {
            // Whoever is looking at an entry holds it; the others can be found out again.
            known.retain(|_, entry| {
                Arc::strong_count(entry) > 1
                    || matches!(entry.try_lock().as_deref(), Ok(Known::Made(module)) if module.strong_count() > 0)
            });
        }
        Arc::clone(known.entry(digest).or_insert_with(|| Arc::new(tokio::sync::Mutex::new(Known::Nothing))))
    }
}

impl Maker {
    fn make(&self, digest: Digest, wasm: &[u8]) -> Result<Arc<Module>, Problem> {
        let inspected = inspect(wasm, &self.module, &self.limits)?;
        let cached = self.cache.as_ref().and_then(|cache| cache.get(&digest));
        let compiled = match cached {
            Some(compiled) => compiled,
            None => {
                let rewritten = rewrite::rewrite(wasm)
                    .map_err(|error| invalid(format!("the time budget cannot be put into it: {error}")))?;
                let compiled = self
                    .engine
                    .compile(&rewritten)
                    .map_err(|error| invalid(format!("it cannot be compiled: {error}")))?;
                if let Some(cache) = &self.cache {
                    cache.put(&digest, &compiled);
                }
                compiled
            }
        };
        // SAFETY: the bytes are what this engine compiled just now, or what this node once compiled with an engine of
        // the same fingerprint: the cache gives nothing whose MAC under the node's own key does not say so.
        #[expect(unsafe_code, reason = "loading compiled code is running it")]
        let code = unsafe { self.engine.load(&compiled) }
            .map_err(|error| invalid(format!("its code cannot be loaded: {error}")))?;
        if inspected.kind == Kind::Mechtron && inspected.abi.is_none() {
            self.ask_abi(&*code)?;
        }
        Ok(Arc::new(Module { digest, kind: inspected.kind, contract: inspected.contract, code }))
    }

    /// Runs a module to hear which guest ABI it speaks, within the limits of a turn.
    fn ask_abi(&self, code: &dyn engine::Code) -> Result<(), Problem> {
        // That this machine has no room for an instance now says nothing of the module.
        let Ok(mut instance) = Instance::new(code, &self.limits, &self.clock, 0) else { return Ok(()) };
        let version = instance.version().map_err(|ended| {
            invalid(format!("which guest ABI it speaks cannot be told: {}", ended.detail))
                .help("let `mechtron_abi` return its version and do nothing else")
        })?;
        check_abi(version)
    }
}
