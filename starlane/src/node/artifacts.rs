//! What a resource is told by artifacts: its bind, its config, its code. Read once and kept by content.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use mechtron_host::{Contract, Host, Module};
use quick_cache::sync::Cache;
use resource_registry::{BlobStore, Registry, Schemas, files};
use starlane_core::{Base, Bind, Blob, Code, Config, Digest, Point, Problem, Refusal, Resource};

use super::fresh::find;

/// How many artifacts of each sort are kept in memory.
const KEPT_MAX: usize = 512;
/// The longest bind, config or schema.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;
/// The longest module; the host has its own, lower bound.
const MODULE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Reads artifacts as what they are to be used for.
#[derive(Clone)]
pub(super) struct Artifacts(Arc<Inner>);

struct Inner {
    registry: Registry,
    blobs: BlobStore,
    host: Host,
    /// A bind is another one for each resource, and in each bundle that holds its text.
    binds: Cache<(Digest, Point, Point), Arc<Bind>>,
    configs: Cache<Digest, Arc<Config>>,
    modules: Cache<Digest, Arc<Module>>,
    contracts: Cache<Digest, Arc<Contract>>,
}

impl Artifacts {
    pub(super) fn new(registry: Registry, blobs: BlobStore, host: Host) -> Self {
        Self(Arc::new(Inner {
            registry,
            blobs,
            host,
            binds: Cache::new(KEPT_MAX),
            configs: Cache::new(KEPT_MAX),
            modules: Cache::new(KEPT_MAX),
            contracts: Cache::new(KEPT_MAX),
        }))
    }

    /// The bind of a resource, when it has one.
    pub(super) async fn bind_of(&self, resource: &Resource) -> Result<Option<Arc<Bind>>, Refusal> {
        let Some(value) = resource.property("bind") else { return Ok(None) };
        let point = value.as_point().ok_or_else(|| {
            Refusal::new(
                Code::ArtifactInvalid,
                format!("the bind of `{}` is not a point: `{value}`", resource.point),
            )
        })?;
        self.bind(&point, &resource.point).await.map(Some).map_err(super::router::refusal)
    }

    /// The bind in an artifact, as it is for the resource `here`.
    pub(super) async fn bind(&self, point: &Point, here: &Point) -> Result<Arc<Bind>, Problem> {
        let blob = self.artifact(point).await?;
        let bundle = point.holder();
        let key = (blob.digest, here.clone(), bundle.clone());
        if let Some(kept) = self.0.binds.get(&key) {
            return Ok(kept);
        }
        let text = self.text(&blob, point).await?;
        let bind = Bind::parse(&text, point.as_str()).and_then(|bind| bind.at(here, Some(&bundle)));
        let bind = Arc::new(bind.map_err(|problem| problem.at(point))?);
        self.0.binds.insert(key, bind.clone());
        Ok(bind)
    }

    /// The config in an artifact.
    pub(super) async fn config(&self, point: &Point) -> Result<Arc<Config>, Problem> {
        let blob = self.artifact(point).await?;
        if let Some(kept) = self.0.configs.get(&blob.digest) {
            return Ok(kept);
        }
        let text = self.text(&blob, point).await?;
        let config = Arc::new(Config::parse(&text, point.as_str()).map_err(|problem| problem.at(point))?);
        self.0.configs.insert(blob.digest, config.clone());
        Ok(config)
    }

    /// The module in an artifact, compiled.
    pub(super) async fn module(&self, point: &Point) -> Result<Arc<Module>, Problem> {
        let blob = self.artifact(point).await?;
        let compile = async {
            let wasm = self.0.blobs.read(&blob, MODULE_BYTES_MAX).await?;
            self.0.host.compile(wasm).await.map_err(|mut problem| {
                problem.detail = format!("`{point}` is no module that can run here: {}", problem.detail);
                let help =
                    "build it for `wasm32-unknown-unknown`; `starlane new NAME` makes a project that does";
                let help = problem.help.take().unwrap_or_else(|| help.to_owned());
                problem.at(point).help(help)
            })
        };
        self.0.modules.get_or_insert_async(&blob.digest, compile).await
    }

    /// What the module in an artifact says of its mechtrons, without compiling it.
    pub(super) async fn contract(&self, point: &Point) -> Result<Arc<Contract>, Problem> {
        let blob = self.artifact(point).await?;
        let read = async {
            let wasm = self.0.blobs.read(&blob, MODULE_BYTES_MAX).await?;
            Contract::of_module(&wasm).map(Arc::new).map_err(|problem| problem.at(point))
        };
        self.0.contracts.get_or_insert_async(&blob.digest, read).await
    }

    async fn text(&self, blob: &Blob, point: &Point) -> Result<String, Problem> {
        let bytes = self.0.blobs.read(blob, TEXT_BYTES_MAX).await?;
        String::from_utf8(bytes.to_vec()).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Problem::new(Code::ArtifactInvalid, format!("`{point}` is not text: byte {at} is not UTF-8"))
                .at(point)
        })
    }

    async fn artifact(&self, point: &Point) -> Result<Blob, Problem> {
        let Some(resource) = find(&self.0.registry, point).await? else {
            return Err(Problem::new(Code::ArtifactInvalid, format!("no artifact is at `{point}`"))
                .at(point)
                .help(format!("`starlane select '{}:**'` shows what the bundle holds", point.holder())));
        };
        if resource.kind.base != Base::Artifact {
            let what = format!("`{resource}` is not an artifact of a bundle");
            return Err(Problem::new(Code::ArtifactInvalid, what).at(point).help(
                "publish a bundle that holds it: `starlane publish '^[ FOLDER ]-> SPACE:REPO:SERIES:1.0.0'`",
            ));
        }
        files::open(&self.0.registry, point).map(|content| content.blob)
    }
}

impl Schemas for Artifacts {
    fn read(&self, source: Point) -> BoxFuture<'static, Result<Bytes, Problem>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let content = files::open(&inner.registry, &source)?;
            Ok(inner.blobs.read(&content.blob, TEXT_BYTES_MAX).await?)
        })
    }
}
