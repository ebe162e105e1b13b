//! Which vector instructions are used.

/// The vector instructions that a function is run with. They decide its speed and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub(crate) Instructions);

/// Private, so that nobody claims what the processor does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// What the target has anyway: SSE2 on x86-64, NEON on AArch64, 128 bits in WebAssembly.
    Base,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The widest that this processor has.
    pub fn best() -> Self {
        Self::all().last().copied().unwrap_or(Self(Instructions::Base))
    }

    /// Every one that this processor has, the narrowest first.
    pub fn all() -> Vec<Self> {
        #[allow(unused_mut, reason = "there are more on x86-64")]
        let mut all = vec![Self(Instructions::Base)];
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx2") {
                all.push(Self(Instructions::Avx2));
            }
            let wide = std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq");
            if wide {
                all.push(Self(Instructions::Avx512));
            }
        }
        all
    }
}

/// Compiles a function for every [`Level`]: `fn NAME(level, ARGUMENTS) = BODY, BASE, AVX2, AVX512`, where `BODY` is an
/// `#[inline(always)]` function with a parameter that becomes one of the other three.
macro_rules! at_every_level {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:ident, $base:ty, $avx2:ty, $avx512:ty) => {
        at_every_level!(@ $(#[$attribute])* $visibility fn $name($($argument: $type),*) =
            ($body::<$base>), ($body::<$avx2>), ($body::<$avx512>));
    };
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:ident, $base:literal, $avx2:literal, $avx512:literal) => {
        at_every_level!(@ $(#[$attribute])* $visibility fn $name($($argument: $type),*) =
            ($body::<$base>), ($body::<$avx2>), ($body::<$avx512>));
    };
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:ident) => {
        at_every_level!(@ $(#[$attribute])* $visibility fn $name($($argument: $type),*) = ($body), ($body), ($body));
    };
    (@ $(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) = ($base:expr), ($avx2:expr), ($avx512:expr)) => {
        $(#[$attribute])*
        $visibility fn $name(level: $crate::Level, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($argument: $type),*) {
                $avx2($($argument),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
            fn avx512($($argument: $type),*) {
                $avx512($($argument),*);
            }
            #[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
            fn base($($argument: $type),*) {
                $base($($argument),*);
            }
            match level.0 {
                $crate::level::Instructions::Base => base($($argument),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a `Level` exists only where `Level::all` found its instructions.
                #[allow(unsafe_code, reason = "the processor was asked for them")]
                $crate::level::Instructions::Avx2 => unsafe { avx2($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                #[allow(unsafe_code, reason = "the processor was asked for them")]
                $crate::level::Instructions::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}
pub(crate) use at_every_level;
