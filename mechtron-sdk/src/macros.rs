//! The macros that are plain patterns.

/// Refuses the message, with a code and a reason, unless the condition holds:
/// `ensure!(m.by > 0, INVALID_MESSAGE, "`by` must be above zero, not {}", m.by)`.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $code:expr, $($reason:tt)+) => {
        if !$condition {
            $crate::bail!($code, $($reason)+);
        }
    };
}

/// Refuses the message, with a code and a reason.
#[macro_export]
macro_rules! bail {
    ($code:expr, $($reason:tt)+) => {
        return ::core::result::Result::Err($crate::Error::reject($code, ::std::format!($($reason)+)))
    };
}

/// Writes a line to the log: `error!(cx, "no answer from {point}")`.
#[macro_export]
macro_rules! error {
    ($cx:expr, $($line:tt)+) => { $cx.log($crate::Level::Error, ::core::format_args!($($line)+)) };
}

/// Writes a line to the log: `warn!(cx, "late by {late} ms")`.
#[macro_export]
macro_rules! warn {
    ($cx:expr, $($line:tt)+) => { $cx.log($crate::Level::Warn, ::core::format_args!($($line)+)) };
}

/// Writes a line to the log: `info!(cx, "added {by}")`.
#[macro_export]
macro_rules! info {
    ($cx:expr, $($line:tt)+) => { $cx.log($crate::Level::Info, ::core::format_args!($($line)+)) };
}

/// Writes a line to the log: `debug!(cx, "now at {total}")`.
#[macro_export]
macro_rules! debug {
    ($cx:expr, $($line:tt)+) => { $cx.log($crate::Level::Debug, ::core::format_args!($($line)+)) };
}

/// Makes the module's exports: `mechtrons![Counter, Auditor];`. Once in a crate, with every mechtron of it.
#[macro_export]
macro_rules! mechtrons {
    ($($mechtron:ty),+ $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            #[unsafe(no_mangle)]
            extern "C" fn mechtron_abi() -> i32 {
                $crate::__private::exports::ABI
            }

            #[unsafe(no_mangle)]
            extern "C" fn mechtron_inbox(min: i32) -> i32 {
                const ENTRIES: &[$crate::__private::Entry] =
                    &[$($crate::__private::Entry::of::<$mechtron>()),+];
                $crate::__private::exports::inbox(ENTRIES, min)
            }

            #[unsafe(no_mangle)]
            extern "C" fn mechtron_init(length: i32) -> i64 {
                $crate::__private::exports::init(length)
            }

            #[unsafe(no_mangle)]
            extern "C" fn mechtron_run(length: i32) -> i64 {
                $crate::__private::exports::run(length)
            }
        };

        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() = || {
            // Natively there is nothing to export, but what is listed must be a mechtron all the same.
            $(_ = $crate::__private::Entry::of::<$mechtron>();)+
        };
    };
}
