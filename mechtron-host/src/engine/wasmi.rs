//! wasmi: an interpreter, for small devices and as the twin in conformance tests.

use wasmi::{
    Config, Engine as Inner, Extern, ExternType, Func, FuncType, Global, Instance, Linker, Memory, Module,
    Store, StoreLimits, StoreLimitsBuilder, Val, ValType,
};

use super::{Clamp, Code, Engine, Entry, Guest, Shape, Trap};
use crate::imports::{Env, Import, Type};
use crate::rewrite::TICKS;

/// Interprets.
pub(crate) struct Wasmi;

impl Engine for Wasmi {
    fn fingerprint(&self) -> String {
        "wasmi 2".to_owned()
    }

    /// Checks the module; what is loaded is the module itself.
    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, String> {
        Module::validate(&engine(), wasm).map_err(|error| error.to_string())?;
        Ok(wasm.to_vec())
    }

    #[expect(unsafe_code, reason = "the trait's signature; nothing unsafe happens here")]
    unsafe fn load(&self, compiled: &[u8]) -> Result<Box<dyn Code>, String> {
        let engine = engine();
        let module = Module::new(&engine, compiled).map_err(|error| error.to_string())?;
        let mut linker = Linker::new(&engine);
        for import in module.imports() {
            let known = Import::find(import.module(), import.name())
                .ok_or_else(|| format!("unknown import {}.{}", import.module(), import.name()))?;
            define(&mut linker, import.module(), import.name(), known)?;
        }
        Ok(Box::new(Loaded { engine, module, linker }))
    }
}

fn engine() -> Inner {
    let mut config = Config::default();
    config.wasm_tail_call(false).wasm_extended_const(false).wasm_multi_memory(false).wasm_memory64(false);
    Inner::new(&config)
}

struct Seen {
    env: Env,
    limits: StoreLimits,
}

struct Loaded {
    engine: Inner,
    module: Module,
    linker: Linker<Seen>,
}

fn define(linker: &mut Linker<Seen>, module: &str, name: &str, import: Import) -> Result<(), String> {
    let wasm = |ty: &Type| match ty {
        Type::I32 => ValType::I32,
        Type::I64 => ValType::I64,
    };
    let parameters: Vec<_> = import.parameters().iter().map(wasm).collect();
    let results: Vec<_> = import.result().iter().map(wasm).collect();
    let call = move |mut caller: wasmi::Caller<'_, Seen>, arguments: &[Val], returned: &mut [Val]| {
        let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
            return Err(wasmi::Error::new("the module exports no memory"));
        };
        let (bytes, seen) = memory.data_and_store_mut(&mut caller);
        let mut numbers = [0; 8];
        for (number, argument) in numbers.iter_mut().zip(arguments) {
            *number = argument.i64().or_else(|| argument.i32().map(i64::from)).unwrap_or_default();
        }
        let result = import
            .call(&mut seen.env, bytes, &numbers[..arguments.len().min(8)])
            .map_err(|stopped| wasmi::Error::new(stopped.to_string()))?;
        if let (Some(slot), Some(ty)) = (returned.first_mut(), import.result()) {
            *slot = match ty {
                Type::I32 => Val::I32(result as i32),
                Type::I64 => Val::I64(result),
            };
        }
        Ok(())
    };
    linker
        .func_new(module, name, FuncType::new(parameters, results), call)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

impl Code for Loaded {
    fn instantiate(&self, clamp: Clamp, env: Env) -> Result<Box<dyn Guest>, String> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(clamp.memory_pages as usize * 65_536)
            .table_elements(clamp.table_entries as usize)
            .build();
        let mut store = Store::new(&self.engine, Seen { env, limits });
        store.limiter(|seen| &mut seen.limits);
        let instance: Instance =
            self.linker.instantiate_and_start(&mut store, &self.module).map_err(|error| error.to_string())?;
        let memory = instance.get_memory(&store, "memory").ok_or("it exports no memory")?;
        let ticks = instance.get_global(&store, TICKS).ok_or("it has no counter of ticks")?;
        let mut calls = [None; Entry::ALL.len()];
        for entry in Entry::ALL {
            calls[entry as usize] = self
                .module
                .get_export(entry.name())
                .filter(|ty| matches!(ty, ExternType::Func(_)))
                .and_then(|_| instance.get_func(&store, entry.name()));
        }
        Ok(Box::new(Running { store, memory, ticks, calls }))
    }
}

struct Running {
    store: Store<Seen>,
    memory: Memory,
    ticks: Global,
    calls: [Option<Func>; Entry::ALL.len()],
}

impl Guest for Running {
    fn call(&mut self, entry: Entry, argument: i32) -> Result<i64, Trap> {
        let Some(function) = self.calls[entry as usize] else { return Ok(0) };
        let argument = [Val::I32(argument)];
        let mut result = [Val::I32(0)];
        let (arguments, results) = match entry.shape() {
            Shape::Nothing => (&argument[..0], &mut result[..0]),
            Shape::GivesI32 | Shape::GivesI64 => (&argument[..0], &mut result[..]),
            Shape::TakesI32GivesI32 | Shape::TakesI32GivesI64 => (&argument[..], &mut result[..]),
        };
        if let Err(error) = function.call(&mut self.store, arguments, results) {
            if let Some(trap) = self.store.data_mut().env.trap.take() {
                return Err(trap);
            }
            let exhausted = self.ticks.get(&self.store).i64().is_some_and(|left| left < 0);
            return Err(if exhausted { Trap::Budget } else { Trap::Fault(error.to_string()) });
        }
        Ok(result[0].i64().or_else(|| result[0].i32().map(i64::from)).unwrap_or_default())
    }

    fn has(&self, entry: Entry) -> bool {
        self.calls[entry as usize].is_some()
    }

    fn set_ticks(&mut self, ticks: i64) {
        // Its type is the rewriter's, so it always takes the value.
        let set = self.ticks.set(&mut self.store, Val::I64(ticks));
        debug_assert!(set.is_ok());
    }

    fn memory(&mut self) -> &mut [u8] {
        self.memory.data_mut(&mut self.store)
    }

    fn env(&mut self) -> &mut Env {
        &mut self.store.data_mut().env
    }
}
