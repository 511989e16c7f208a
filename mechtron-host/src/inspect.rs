//! Decides whether a module may be compiled, before anything is.
//!
//! Sizes are looked at first and cost one pass over the bytes, then the module is validated with an allow-list of
//! Wasm features, then imports, exports and the contract are read.

use starlane_core::{Code, Problem};
use wasmparser::{
    CompositeInnerType, ExternalKind, FuncType, FunctionBody, Operator, Parser, Payload, RefType, TypeRef,
    ValType, Validator, WasmFeatures,
};

use crate::contract::Contract;
use crate::engine::{Entry, Shape};
use crate::imports::{Import, Type};
use crate::limits::{Limits, ModuleLimits};
use crate::rewrite::{RESERVED, rewrite};

/// What a module was found to be.
pub(crate) struct Inspected {
    pub(crate) kind: Kind,
    pub(crate) contract: Contract,
    /// What `mechtron_abi` returns, when that stands there without running it.
    pub(crate) abi: Option<i32>,
}

/// How a module is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the guest ABI.
    Mechtron,
    /// As a WASI command, an instance for each message.
    Command,
}

/// Inspects a module.
///
/// # Errors
/// `E-WASM-INVALID` or `E-TOO-LARGE`, saying which rule it breaks and where.
pub(crate) fn inspect(wasm: &[u8], module: &ModuleLimits, limits: &Limits) -> Result<Inspected, Problem> {
    check_bytes("the module", wasm.len(), module.bytes)?;
    if wasm.get(4..8) == Some(&[0x0d, 0, 1, 0]) {
        return Err(invalid("this is a component, not a core module")
            .help("build for wasm32-unknown-unknown or wasm32-wasip1 without wrapping it into a component"));
    }
    let found = survey(wasm, module, limits)?;
    Validator::new_with_features(FEATURES).validate_all(wasm).map_err(|error| {
        invalid(format!("it is not valid: {error}")).help(
            "allowed are the features of WebAssembly 2.0 with SIMD; threads, exceptions, tail calls, 64-bit or \
             several memories and GC are not",
        )
    })?;
    let kind = found.kind()?;
    if kind == Kind::Mechtron
        && let Some(version) = found.abi
    {
        check_abi(version)?;
    }
    let contract = Contract::read(&found.contract)?;
    Ok(Inspected { kind, contract, abi: found.abi })
}

/// Checks that what `mechtron_abi` returned is a version that this host speaks.
///
/// # Errors
/// `E-WASM-INVALID`, naming both.
pub(crate) fn check_abi(version: i32) -> Result<(), Problem> {
    let (major, own) = (version >> 16, mechtron_abi::MAJOR);
    if major == i32::from(own) {
        return Ok(());
    }
    Err(invalid(format!("it speaks guest ABI {major}, this host {own}"))
        .help(format!("build it with an SDK for guest ABI {own}; docs/guest-abi.md says what that is")))
}

/// Decides about whatever bytes as a host does before it compiles them, and checks what must hold of a module that is taken: its
/// time budget can be put into it, and what comes out is valid too. The body of a fuzz target.
///
/// # Panics
/// When something does not hold.
pub fn check_module(wasm: &[u8]) {
    let Ok(inspected) = inspect(wasm, &ModuleLimits::default(), &Limits::default()) else { return };
    assert!(
        inspected.kind == Kind::Command || inspected.abi.is_none_or(|version| check_abi(version).is_ok())
    );
    match rewrite(wasm) {
        Ok(rewritten) => {
            let valid = Validator::new_with_features(FEATURES).validate_all(&rewritten);
            assert!(valid.is_ok(), "what was put into it made it invalid: {:?}", valid.err());
        }
        Err(error) => panic!("the time budget cannot be put into it: {error}"),
    }
}

const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::GC_TYPES);

/// What the first pass finds.
#[derive(Default)]
struct Survey {
    types: Vec<Option<FuncType>>,
    /// The type of each function, imported ones first.
    functions: Vec<u32>,
    exports: Vec<(String, ExternalKind, u32)>,
    contract: Vec<u8>,
    abi: Option<i32>,
}

fn survey(wasm: &[u8], max: &ModuleLimits, limits: &Limits) -> Result<Survey, Problem> {
    if !wasm.starts_with(b"\0asm") {
        return Err(invalid("it is malformed: it does not begin as WebAssembly does"));
    }
    let mut found = Survey::default();
    let mut code_bytes = 0;
    let (mut imported, mut defined) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(malformed)? {
            Payload::TypeSection(types) => {
                check_count("types", types.count(), max.types)?;
                for group in types {
                    for ty in group.map_err(malformed)?.into_types() {
                        found.types.push(match ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => Some(ty),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(imports) => {
                check_count("imports", imports.count(), max.imports)?;
                for import in imports.into_imports() {
                    let import = import.map_err(malformed)?;
                    found.functions.push(check_import(&found.types, import)?);
                    imported += 1;
                }
            }
            Payload::FunctionSection(functions) => {
                check_count("functions", functions.count(), max.functions)?;
                for ty in functions {
                    found.functions.push(ty.map_err(malformed)?);
                }
            }
            Payload::TableSection(tables) => {
                check_count("tables", tables.count(), max.tables)?;
                for table in tables {
                    let ty = table.map_err(malformed)?.ty;
                    if ty.initial > u64::from(limits.table_entries) {
                        let detail = format!(
                            "a table begins with {} entries; {} may be",
                            ty.initial, limits.table_entries
                        );
                        return Err(Problem::new(Code::TooLarge, detail));
                    }
                    if ty.element_type != RefType::FUNCREF && ty.element_type != RefType::EXTERNREF {
                        return Err(invalid("a table holds something other than functions"));
                    }
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let bytes = memory.map_err(malformed)?.initial.saturating_mul(65_536);
                    if bytes > limits.memory_bytes {
                        let detail = format!(
                            "its memory begins with {bytes} bytes; {} may be at most",
                            limits.memory_bytes
                        );
                        return Err(Problem::new(Code::TooLarge, detail));
                    }
                }
            }
            Payload::GlobalSection(globals) => check_count("globals", globals.count(), max.globals)?,
            Payload::ExportSection(exports) => {
                check_count("exports", exports.count(), max.exports)?;
                for export in exports {
                    let export = export.map_err(malformed)?;
                    if export.name.starts_with(RESERVED) {
                        return Err(invalid(format!("the export `{}` has a reserved name", export.name)));
                    }
                    found.exports.push((export.name.to_owned(), export.kind, export.index));
                }
            }
            Payload::ElementSection(segments) => {
                check_count("element segments", segments.count(), max.segments)?;
            }
            Payload::DataSection(segments) => {
                check_count("data segments", segments.count(), max.segments)?;
            }
            Payload::CodeSectionEntry(body) => {
                code_bytes += body.range().end - body.range().start;
                if code_bytes > max.code_bytes {
                    let detail = format!("its code is larger than {} bytes", max.code_bytes);
                    return Err(Problem::new(Code::TooLarge, detail));
                }
                check_function(defined, &body, max)?;
                let index = imported + defined;
                if found.exports.iter().any(|(name, kind, at)| {
                    *kind == ExternalKind::Func && *at == index && name == Entry::Abi.name()
                }) {
                    found.abi = constant(&body)?;
                }
                defined += 1;
            }
            Payload::CustomSection(section) if section.name() == mechtron_abi::CONTRACT_SECTION => {
                check_bytes("the contract", found.contract.len() + section.data().len(), max.contract_bytes)?;
                found.contract.extend_from_slice(section.data());
            }
            _ => {}
        }
    }
    Ok(found)
}

fn check_import(types: &[Option<FuncType>], import: wasmparser::Import<'_>) -> Result<u32, Problem> {
    let name = format!("{}.{}", import.module, import.name);
    let TypeRef::Func(index) = import.ty else {
        return Err(invalid(format!("it imports `{name}`, which is not a function"))
            .help("a mechtron has its own memory and tables; export `memory` instead of importing it"));
    };
    let Some(known) = Import::find(import.module, import.name) else {
        return Err(invalid(format!("it imports `{name}`, which no host has")).help(
            "imports are those of the module `mechtron` and a few of `wasi_snapshot_preview1`; see the guest ABI",
        ));
    };
    let wasm = |ty: &Type| match ty {
        Type::I32 => ValType::I32,
        Type::I64 => ValType::I64,
    };
    let fits = types.get(index as usize).and_then(Option::as_ref).is_some_and(|ty| {
        ty.params().iter().copied().eq(known.parameters().iter().map(wasm))
            && ty.results().iter().copied().eq(known.result().iter().map(wasm))
    });
    if fits { Ok(index) } else { Err(invalid(format!("it imports `{name}` with another type than it has"))) }
}

fn check_function(index: u32, body: &FunctionBody<'_>, max: &ModuleLimits) -> Result<(), Problem> {
    let bytes = body.range().end - body.range().start;
    let refuse = |what: String| Err(Problem::new(Code::TooLarge, format!("function {index} {what}")));
    if bytes > max.function_bytes {
        return refuse(format!("has {bytes} bytes of code; {} may be at most", max.function_bytes));
    }
    let mut locals = 0;
    for local in body.get_locals_reader().map_err(malformed)? {
        locals += u64::from(local.map_err(malformed)?.0);
    }
    if locals > max.locals {
        return refuse(format!("has {locals} locals; {} may be at most", max.locals));
    }
    let (mut nesting, mut targets) = (0_usize, 0);
    for operator in body.get_operators_reader().map_err(malformed)? {
        match operator.map_err(malformed)? {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => nesting += 1,
            Operator::End => nesting = nesting.saturating_sub(1),
            Operator::BrTable { targets: table } => targets += u64::from(table.len()),
            _ => {}
        }
        if nesting > max.nesting {
            return refuse(format!("has more than {} blocks within each other", max.nesting));
        }
        if targets > max.branch_targets {
            return refuse(format!("has more than {} branch targets", max.branch_targets));
        }
    }
    Ok(())
}

/// What a function returns that does nothing else.
fn constant(body: &FunctionBody<'_>) -> Result<Option<i32>, Problem> {
    let mut operators = body.get_operators_reader().map_err(malformed)?;
    let Operator::I32Const { value } = operators.read().map_err(malformed)? else { return Ok(None) };
    let ends = matches!(operators.read().map_err(malformed)?, Operator::End);
    Ok(ends.then_some(value))
}

impl Survey {
    fn kind(&self) -> Result<Kind, Problem> {
        let memory = self.exports.iter().find(|(name, ..)| name == "memory");
        if !matches!(memory, Some((_, ExternalKind::Memory, 0))) {
            return Err(invalid("it does not export its memory as `memory`"));
        }
        for entry in Entry::ALL {
            if let Some(shape) = self.shape(entry.name())
                && shape != Some(entry.shape())
            {
                return Err(invalid(format!(
                    "its export `{}` has another type than the guest ABI's",
                    entry.name()
                )));
            }
        }
        let has = |entry: Entry| self.shape(entry.name()).is_some();
        if has(Entry::Abi) {
            for entry in [Entry::Inbox, Entry::Init, Entry::Run] {
                if !has(entry) {
                    return Err(invalid(format!("it does not export `{}`", entry.name())));
                }
            }
            return Ok(Kind::Mechtron);
        }
        if has(Entry::Command) {
            return Ok(Kind::Command);
        }
        Err(invalid("it exports neither `mechtron_abi` nor `_start`")
            .help("make it with `starlane new NAME`, or build a WASI command"))
    }

    /// The shape of an exported function, if it has one of those that the host calls; `None` when nothing of this
    /// name is exported.
    fn shape(&self, name: &str) -> Option<Option<Shape>> {
        let (_, kind, index) = self.exports.iter().find(|(export, ..)| export == name)?;
        let ty = (*kind == ExternalKind::Func)
            .then(|| self.functions.get(*index as usize))
            .flatten()
            .and_then(|ty| self.types.get(*ty as usize))
            .and_then(Option::as_ref);
        Some(ty.and_then(|ty| match (ty.params(), ty.results()) {
            ([], []) => Some(Shape::Nothing),
            ([], [ValType::I32]) => Some(Shape::GivesI32),
            ([], [ValType::I64]) => Some(Shape::GivesI64),
            ([ValType::I32], [ValType::I32]) => Some(Shape::TakesI32GivesI32),
            ([ValType::I32], [ValType::I64]) => Some(Shape::TakesI32GivesI64),
            _ => None,
        }))
    }
}

fn check_bytes(what: &str, have: usize, max: usize) -> Result<(), Problem> {
    if have <= max {
        return Ok(());
    }
    Err(Problem::new(Code::TooLarge, format!("{what} has {have} bytes; {max} may be at most")))
}

fn check_count(what: &str, have: u32, max: u32) -> Result<(), Problem> {
    if have <= max {
        return Ok(());
    }
    Err(Problem::new(Code::TooLarge, format!("it has {have} {what}; {max} may be at most")))
}

fn malformed(error: wasmparser::Error) -> Problem {
    invalid(format!("it is malformed: {error}"))
}

pub(crate) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::WasmInvalid, detail)
}
