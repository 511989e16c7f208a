//! Puts the time budget into a module: every engine then stops it at the same instruction.
//!
//! A counter of ticks is added as a global. Each function counts one when it is entered, each loop one a turn, every
//! 32 operations on any path one more, and operations on ranges count by their length. Below zero it traps. The start
//! function becomes an export, so that it runs under the budget too, and custom sections are dropped.

use wasm_encoder::reencode::{self, Reencode, RoundtripReencoder};
use wasm_encoder::{
    CodeSection, ConstExpr, ExportKind, ExportSection, Function, GlobalSection, GlobalType, Instruction,
    Module, RawSection, ValType,
};
use wasmparser::{CompositeInnerType, FunctionBody, Operator, Parser, Payload};

/// What the names of all exports begin with that the host adds.
pub(crate) const RESERVED: &str = "starlane:";
/// The export that is the counter.
pub(crate) const TICKS: &str = "starlane:ticks";
/// The export that is the start function.
pub(crate) const START: &str = "starlane:start";
/// Changes with the code that is made; part of the key of what is cached.
pub(crate) const VERSION: u32 = 1;

/// How many operations may run on a path without a tick.
const STRETCH: u32 = 32;
/// How many bytes an operation on memory handles in a tick, as a power of two: 32.
const BYTES_SHIFT: i64 = 5;
/// What growing a memory or a table costs, whatever comes of it.
const GROW: i64 = 1_000;

/// Rewrites a module that was inspected.
///
/// # Errors
/// When the module is not what `inspect` lets through.
pub(crate) fn rewrite(wasm: &[u8]) -> Result<Vec<u8>, Error> {
    let mut module = Module::new();
    let mut parameters = Vec::new();
    let mut functions = Vec::new();
    let mut globals = GlobalSection::new();
    let mut imported_globals = 0;
    let mut exports = ExportSection::new();
    let mut exported = false;
    let mut code = CodeSection::new();
    let mut bodies = 0;
    let mut ticks = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        match &payload {
            Payload::TypeSection(types) => {
                for group in types.clone() {
                    for ty in group?.into_types() {
                        parameters.push(match ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => ty.params().len() as u32,
                            _ => 0,
                        });
                    }
                }
                copy(&mut module, &payload, wasm);
            }
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    imported_globals += u32::from(matches!(import?.ty, wasmparser::TypeRef::Global(_)));
                }
                copy(&mut module, &payload, wasm);
            }
            Payload::FunctionSection(section) => {
                for ty in section.clone() {
                    functions.push(ty?);
                }
                copy(&mut module, &payload, wasm);
            }
            Payload::GlobalSection(section) => {
                RoundtripReencoder.parse_global_section(&mut globals, section.clone())?;
            }
            Payload::ExportSection(section) => {
                ticks = imported_globals + globals.len();
                let ty = GlobalType { val_type: ValType::I64, mutable: true, shared: false };
                globals.global(ty, &ConstExpr::i64_const(0));
                module.section(&globals);
                RoundtripReencoder.parse_export_section(&mut exports, section.clone())?;
                exports.export(TICKS, ExportKind::Global, ticks);
                exported = true;
            }
            Payload::StartSection { func, .. } => {
                exports.export(START, ExportKind::Func, *func);
            }
            Payload::CodeSectionEntry(body) => {
                let ty = *functions.get(bodies).ok_or(Error::Shape)?;
                let parameters = *parameters.get(ty as usize).ok_or(Error::Shape)?;
                code.function(&budget(body, parameters, ticks)?);
                bodies += 1;
            }
            // Everything that comes after the exports is held back until the start function is known.
            Payload::ElementSection(_) | Payload::DataCountSection { .. } | Payload::DataSection(_) => {
                if !exports.is_empty() {
                    module.section(&std::mem::take(&mut exports));
                }
                if matches!(payload, Payload::DataSection(_)) && bodies > 0 {
                    module.section(&std::mem::take(&mut code));
                    bodies = 0;
                }
                copy(&mut module, &payload, wasm);
            }
            Payload::CodeSectionStart { .. } if !exports.is_empty() => {
                module.section(&std::mem::take(&mut exports));
            }
            Payload::TableSection(_) | Payload::MemorySection(_) => copy(&mut module, &payload, wasm),
            _ => {}
        }
    }
    if !exports.is_empty() {
        module.section(&exports);
    }
    if bodies > 0 {
        module.section(&code);
    }
    if exported { Ok(module.finish()) } else { Err(Error::Shape) }
}

/// Why a module cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Parse(#[from] wasmparser::Error),
    #[error("{0}")]
    Encode(#[from] reencode::Error),
    #[error("its sections do not fit together")]
    Shape,
}

fn copy(module: &mut Module, payload: &Payload<'_>, wasm: &[u8]) {
    if let Some((id, range)) = payload.as_section()
        && let Some(data) = wasm.get(range.start as usize..range.end as usize)
    {
        module.section(&RawSection { id, data });
    }
}

fn budget(body: &FunctionBody<'_>, parameters: u32, ticks: u32) -> Result<Function, Error> {
    let mut locals = Vec::new();
    let mut next = parameters;
    for local in body.get_locals_reader()? {
        let (count, ty) = local?;
        next += count;
        locals.push((count, RoundtripReencoder.val_type(ty)?));
    }
    locals.extend([(1, ValType::I64), (1, ValType::I32)]);
    let tick = Ticker { ticks, left: next, length: next + 1 };
    let mut function = Function::new(locals);
    let mut paths = Paths::new();
    tick.charge(&mut function, 1);
    let reader = body.get_operators_reader()?;
    let bytes = body.as_bytes();
    let base = body.range().start;
    let mut copied = reader.original_position();
    let until =
        |from: u64, to: u64| bytes.get((from - base) as usize..(to - base) as usize).unwrap_or_default();
    let mut operators = reader.into_iter_with_offsets();
    let mut current = operators.next();
    while let Some(operator) = current {
        let (operator, at) = operator?;
        current = operators.next();
        let end = match &current {
            Some(Ok((_, offset))) => *offset,
            _ => body.range().end,
        };
        if let Some(price) = price(&operator) {
            function.raw(until(copied, at).iter().copied());
            copied = at;
            match price {
                Price::Flat(ticks) => tick.charge(&mut function, ticks),
                Price::Length(shift) => tick.charge_length(&mut function, shift),
            }
        }
        let due = paths.step(&operator) || matches!(operator, Operator::Loop { .. });
        // After the last `end` nothing may follow.
        if due && current.is_some() {
            function.raw(until(copied, end).iter().copied());
            copied = end;
            tick.charge(&mut function, 1);
        }
    }
    function.raw(until(copied, body.range().end).iter().copied());
    Ok(function)
}

/// What an operation costs beyond the path it is on.
enum Price {
    Flat(i64),
    /// By the length on top of the stack, divided by two to the power of this.
    Length(i64),
}

fn price(operator: &Operator<'_>) -> Option<Price> {
    match operator {
        Operator::MemoryFill { .. } | Operator::MemoryCopy { .. } | Operator::MemoryInit { .. } => {
            Some(Price::Length(BYTES_SHIFT))
        }
        Operator::TableFill { .. } | Operator::TableCopy { .. } | Operator::TableInit { .. } => {
            Some(Price::Length(0))
        }
        Operator::MemoryGrow { .. } | Operator::TableGrow { .. } => Some(Price::Flat(GROW)),
        _ => None,
    }
}

struct Ticker {
    /// The global.
    ticks: u32,
    /// A local for what is left.
    left: u32,
    /// A local for a length.
    length: u32,
}

impl Ticker {
    fn charge(&self, function: &mut Function, ticks: i64) {
        function.instruction(&Instruction::GlobalGet(self.ticks)).instruction(&Instruction::I64Const(ticks));
        self.spend(function);
    }

    fn charge_length(&self, function: &mut Function, shift: i64) {
        function
            .instruction(&Instruction::LocalTee(self.length))
            .instruction(&Instruction::GlobalGet(self.ticks))
            .instruction(&Instruction::LocalGet(self.length))
            .instruction(&Instruction::I64ExtendI32U)
            .instruction(&Instruction::I64Const(shift))
            .instruction(&Instruction::I64ShrU)
            .instruction(&Instruction::I64Const(1))
            .instruction(&Instruction::I64Add);
        self.spend(function);
    }

    fn spend(&self, function: &mut Function) {
        function
            .instruction(&Instruction::I64Sub)
            .instruction(&Instruction::LocalTee(self.left))
            .instruction(&Instruction::GlobalSet(self.ticks))
            .instruction(&Instruction::LocalGet(self.left))
            .instruction(&Instruction::I64Const(0))
            .instruction(&Instruction::I64LtS)
            .instruction(&Instruction::If(wasm_encoder::BlockType::Empty))
            .instruction(&Instruction::Unreachable)
            .instruction(&Instruction::End);
    }
}

/// The longest path since a tick, at the operation that is looked at. A guest cannot jump over a tick for nothing:
/// where paths meet, the longest counts.
struct Paths {
    blocks: Vec<Block>,
    /// `None` where no path leads.
    length: Option<u32>,
}

struct Block {
    is_loop: bool,
    /// The longest path that jumps to its end.
    at_end: Option<u32>,
    /// For an `if` without `else` so far: the path around it.
    around: Option<u32>,
}

impl Paths {
    fn new() -> Self {
        Self { blocks: Vec::new(), length: Some(0) }
    }

    /// Goes on over an operation; tells whether a tick is due after it.
    fn step(&mut self, operator: &Operator<'_>) -> bool {
        self.length = self.length.map(|length| length + 1);
        match operator {
            Operator::Block { .. } => self.enter(false, None),
            Operator::Loop { .. } => {
                self.enter(true, None);
                // A tick follows every loop's head.
                self.length = self.length.map(|_| 0);
                return false;
            }
            Operator::If { .. } => self.enter(false, self.length),
            Operator::Else => {
                if let Some(block) = self.blocks.last_mut() {
                    block.at_end = block.at_end.max(self.length);
                    self.length = block.around.take();
                }
            }
            Operator::End => {
                if let Some(block) = self.blocks.pop() {
                    self.length = self.length.max(block.at_end).max(block.around);
                }
            }
            Operator::Br { relative_depth } => {
                self.jump(*relative_depth);
                self.length = None;
            }
            Operator::BrIf { relative_depth } => self.jump(*relative_depth),
            Operator::BrTable { targets } => {
                for target in targets.targets().flatten() {
                    self.jump(target);
                }
                self.jump(targets.default());
                self.length = None;
            }
            Operator::Return | Operator::Unreachable => self.length = None,
            _ => {}
        }
        let due = self.length.is_some_and(|length| length >= STRETCH);
        if due {
            self.length = Some(0);
        }
        due
    }

    fn enter(&mut self, is_loop: bool, around: Option<u32>) {
        self.blocks.push(Block { is_loop, at_end: None, around });
    }

    fn jump(&mut self, depth: u32) {
        let index = self.blocks.len().checked_sub(1 + depth as usize);
        // A jump to a loop meets the tick at its head, one out of the function needs none.
        if let Some(block) = index.and_then(|index| self.blocks.get_mut(index))
            && !block.is_loop
        {
            block.at_end = block.at_end.max(self.length);
        }
    }
}
