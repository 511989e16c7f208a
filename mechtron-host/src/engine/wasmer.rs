//! wasmer with Cranelift: machine code, one headless engine per module version, one store per instance.

use std::cell::Cell;
use std::num::NonZero;
use std::ptr::NonNull;

use wasmer::sys::vm::{
    MemoryError, MemoryStyle, TableStyle, VMConfig, VMMemory, VMMemoryDefinition, VMTable, VMTableDefinition,
};
use wasmer::sys::{
    BaseTunables, CompilerConfig, Cranelift, EngineBuilder, Features, NativeEngineExt, Target, Tunables,
};
use wasmer::{
    Extern, ExternType, Function, FunctionEnv, FunctionType, Global, Imports, Instance, Memory, MemoryType,
    Module, Pages, RuntimeError, Store, TableType, Type as WasmType, TypedFunction, Value,
};

use super::{Clamp, Code, Engine, Entry, Guest, Shape, Trap};
use crate::imports::{Env, Import, Type};
use crate::rewrite::TICKS;

/// Compiles with Cranelift.
pub(crate) struct Wasmer {
    threads: NonZero<usize>,
}

impl Wasmer {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: NonZero::new(threads).unwrap_or(NonZero::<usize>::MIN) }
    }
}

impl Engine for Wasmer {
    fn fingerprint(&self) -> String {
        let target = Target::default();
        let mut cpu: Vec<_> = target.cpu_features().iter().map(|feature| feature.to_string()).collect();
        cpu.sort_unstable();
        format!("wasmer 7.4.2 cranelift {} {}", target.triple(), cpu.join(","))
    }

    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, String> {
        let mut cranelift = Cranelift::new();
        cranelift.num_threads(self.threads);
        // NaNs with one bit pattern: the same answer on every machine.
        cranelift.canonicalize_nans(true);
        let engine =
            EngineBuilder::new(Box::new(cranelift) as Box<dyn CompilerConfig>).set_features(Some(features()));
        let engine = wasmer::Engine::from(engine);
        let module = Module::from_binary(&engine, wasm).map_err(|error| error.to_string())?;
        Ok(module.serialize().map_err(|error| error.to_string())?.to_vec())
    }

    #[expect(unsafe_code, reason = "loading compiled code is running it")]
    unsafe fn load(&self, compiled: &[u8]) -> Result<Box<dyn Code>, String> {
        let mut engine = wasmer::Engine::headless();
        engine.set_tunables(Clamped(BaseTunables::new()));
        // SAFETY: the caller vouches that the bytes are what `compile` made on this machine.
        let module = unsafe { Module::deserialize(&engine, compiled) }.map_err(|error| error.to_string())?;
        let mut imports = Vec::new();
        for import in module.imports() {
            let known = Import::find(import.module(), import.name());
            let known =
                known.ok_or_else(|| format!("unknown import {}.{}", import.module(), import.name()))?;
            imports.push((import.module().to_owned(), import.name().to_owned(), known));
        }
        let exports = Entry::ALL.map(|entry| {
            module
                .exports()
                .any(|export| export.name() == entry.name() && matches!(export.ty(), ExternType::Function(_)))
        });
        Ok(Box::new(Loaded { engine, module, imports, exports }))
    }
}

fn features() -> Features {
    let mut features = Features::none();
    features.reference_types(true).simd(true).bulk_memory(true).multi_value(true);
    features
}

struct Loaded {
    engine: wasmer::Engine,
    module: Module,
    imports: Vec<(String, String, Import)>,
    exports: [bool; Entry::ALL.len()],
}

impl Code for Loaded {
    fn instantiate(&self, clamp: Clamp, env: Env) -> Result<Box<dyn Guest>, String> {
        let mut store = Store::new(self.engine.clone());
        let env = FunctionEnv::new(&mut store, Seen { env, memory: None });
        let mut imports = Imports::new();
        for (module, name, import) in &self.imports {
            imports.define(module, name, host_function(&mut store, &env, *import));
        }
        CLAMP.set(clamp);
        let made = Instance::new(&mut store, &self.module, &imports);
        let instance = made.map_err(|error| error.to_string())?;
        let memory = instance.exports.get_memory("memory").map_err(|error| error.to_string())?.clone();
        let ticks = instance.exports.get_global(TICKS).map_err(|error| error.to_string())?.clone();
        env.as_mut(&mut store).memory = Some(memory.clone());
        let mut calls = [const { None }; Entry::ALL.len()];
        for entry in Entry::ALL {
            if self.exports[entry as usize] {
                calls[entry as usize] =
                    Some(typed(&instance, &store, entry).map_err(|error| error.to_string())?);
            }
        }
        Ok(Box::new(Running { store, memory, ticks, env, calls }))
    }
}

/// What host functions find: the environment, and the memory that is known once there is an instance.
struct Seen {
    env: Env,
    memory: Option<Memory>,
}

fn host_function(store: &mut Store, env: &FunctionEnv<Seen>, import: Import) -> Extern {
    let wasm = |ty: &Type| match ty {
        Type::I32 => WasmType::I32,
        Type::I64 => WasmType::I64,
    };
    let parameters: Vec<_> = import.parameters().iter().map(wasm).collect();
    let results: Vec<_> = import.result().iter().map(wasm).collect();
    let function = Function::new_with_env(
        store,
        env,
        FunctionType::new(parameters, results),
        move |mut context, arguments| {
            let (seen, store) = context.data_and_store_mut();
            let Seen { env, memory: Some(memory) } = seen else {
                return Err(RuntimeError::new("a host function was called before there was an instance"));
            };
            let view = memory.view(&store);
            // SAFETY: the guest waits for this call on this very thread and its memory is not shared, so nobody else
            // reads or writes it until the slice is gone; nothing grows the memory meanwhile.
            #[expect(unsafe_code, reason = "copying through a view costs more than the call")]
            let bytes = unsafe { view.data_unchecked_mut() };
            let mut numbers = [0; 8];
            for (number, argument) in numbers.iter_mut().zip(arguments) {
                *number = argument.i64().or_else(|| argument.i32().map(i64::from)).unwrap_or_default();
            }
            let result = import
                .call(env, bytes, &numbers[..arguments.len().min(8)])
                .map_err(|stopped| RuntimeError::user(Box::new(stopped)))?;
            Ok(match import.result() {
                Some(Type::I32) => vec![Value::I32(result as i32)],
                Some(Type::I64) => vec![Value::I64(result)],
                None => Vec::new(),
            })
        },
    );
    Extern::Function(function)
}

enum Call {
    Nothing(TypedFunction<(), ()>),
    GivesI32(TypedFunction<(), i32>),
    GivesI64(TypedFunction<(), i64>),
    TakesI32GivesI32(TypedFunction<i32, i32>),
    TakesI32GivesI64(TypedFunction<i32, i64>),
}

fn typed(instance: &Instance, store: &Store, entry: Entry) -> Result<Call, wasmer::ExportError> {
    let (exports, name) = (&instance.exports, entry.name());
    Ok(match entry.shape() {
        Shape::Nothing => Call::Nothing(exports.get_typed_function(store, name)?),
        Shape::GivesI32 => Call::GivesI32(exports.get_typed_function(store, name)?),
        Shape::GivesI64 => Call::GivesI64(exports.get_typed_function(store, name)?),
        Shape::TakesI32GivesI32 => Call::TakesI32GivesI32(exports.get_typed_function(store, name)?),
        Shape::TakesI32GivesI64 => Call::TakesI32GivesI64(exports.get_typed_function(store, name)?),
    })
}

struct Running {
    store: Store,
    memory: Memory,
    ticks: Global,
    env: FunctionEnv<Seen>,
    calls: [Option<Call>; Entry::ALL.len()],
}

impl Guest for Running {
    fn call(&mut self, entry: Entry, argument: i32) -> Result<i64, Trap> {
        let store = &mut self.store;
        let returned = match &self.calls[entry as usize] {
            Some(Call::TakesI32GivesI64(call)) => call.call(store, argument),
            Some(Call::TakesI32GivesI32(call)) => call.call(store, argument).map(i64::from),
            Some(Call::GivesI64(call)) => call.call(store),
            Some(Call::GivesI32(call)) => call.call(store).map(i64::from),
            Some(Call::Nothing(call)) => call.call(store).map(|()| 0),
            None => return Ok(0),
        };
        returned.map_err(|error| self.trap(&error))
    }

    fn has(&self, entry: Entry) -> bool {
        self.calls[entry as usize].is_some()
    }

    fn set_ticks(&mut self, ticks: i64) {
        // Its type is the rewriter's, so it always takes the value.
        let set = self.ticks.set(&mut self.store, Value::I64(ticks));
        debug_assert!(set.is_ok());
    }

    fn memory(&mut self) -> &mut [u8] {
        let view = self.memory.view(&self.store);
        // SAFETY: the guest does not run while `self` is borrowed, its memory is not shared with another thread, and it
        // neither moves nor shrinks before the next call, which needs `self` again.
        #[expect(unsafe_code, reason = "one memcpy for a batch of frames")]
        unsafe {
            std::slice::from_raw_parts_mut(view.data_ptr(), view.data_size() as usize)
        }
    }

    fn env(&mut self) -> &mut Env {
        &mut self.env.as_mut(&mut self.store).env
    }
}

impl Running {
    #[cold]
    fn trap(&mut self, error: &RuntimeError) -> Trap {
        if let Some(trap) = self.env().trap.take() {
            return trap;
        }
        match self.ticks.get(&mut self.store) {
            Value::I64(left) if left < 0 => Trap::Budget,
            _ => Trap::Fault(error.message()),
        }
    }
}

thread_local! {
    /// What the instance that this thread makes now is clamped to: tunables belong to the engine, limits to the mechtron.
    static CLAMP: Cell<Clamp> = const { Cell::new(Clamp { memory_pages: 1, table_entries: 0 }) };
}

/// Tunables that clamp memories and tables.
struct Clamped(BaseTunables);

impl Clamped {
    fn memory(ty: &MemoryType) -> Result<MemoryType, MemoryError> {
        let max = Pages(CLAMP.get().memory_pages);
        if ty.minimum > max {
            return Err(MemoryError::Generic(format!("its memory begins with more than {} pages", max.0)));
        }
        let mut ty = *ty;
        ty.maximum = Some(ty.maximum.map_or(max, |own| own.min(max)));
        Ok(ty)
    }

    fn table(ty: &TableType) -> Result<TableType, String> {
        let max = CLAMP.get().table_entries;
        if ty.minimum > max {
            return Err(format!("its table begins with more than {max} entries"));
        }
        let mut ty = *ty;
        ty.maximum = Some(ty.maximum.map_or(max, |own| own.min(max)));
        Ok(ty)
    }
}

impl Tunables for Clamped {
    fn memory_style(&self, memory: &MemoryType) -> MemoryStyle {
        self.0.memory_style(memory)
    }

    fn table_style(&self, table: &TableType) -> TableStyle {
        self.0.table_style(table)
    }

    fn create_host_memory(&self, ty: &MemoryType, style: &MemoryStyle) -> Result<VMMemory, MemoryError> {
        self.0.create_host_memory(&Self::memory(ty)?, style)
    }

    #[expect(unsafe_code, reason = "the trait's signature")]
    unsafe fn create_vm_memory(
        &self,
        ty: &MemoryType,
        style: &MemoryStyle,
        vm_definition_location: NonNull<VMMemoryDefinition>,
    ) -> Result<VMMemory, MemoryError> {
        // SAFETY: the same contract as this function's own.
        unsafe { self.0.create_vm_memory(&Self::memory(ty)?, style, vm_definition_location) }
    }

    fn create_host_table(&self, ty: &TableType, style: &TableStyle) -> Result<VMTable, String> {
        self.0.create_host_table(&Self::table(ty)?, style)
    }

    #[expect(unsafe_code, reason = "the trait's signature")]
    unsafe fn create_vm_table(
        &self,
        ty: &TableType,
        style: &TableStyle,
        vm_definition_location: NonNull<VMTableDefinition>,
    ) -> Result<VMTable, String> {
        // SAFETY: the same contract as this function's own.
        unsafe { self.0.create_vm_table(&Self::table(ty)?, style, vm_definition_location) }
    }

    fn vmconfig(&self) -> &VMConfig {
        self.0.vmconfig()
    }
}
