//! The project's own gradient log, JSON lines:
//!
//! ```json
//! {"hydra_grads":1,"model":"smollm2","norm":"l2","clip":"pre","unit":"optimizer_step","lora":{"r":16,"alpha":32.0}}
//! {"step":10,"loss":1.2,"grads":{"model.layers.0.self_attn.q_proj":{"A":0.01,"B":0.03}}}
//! ```
//!
//! A module whose full weight is trained has `{"W":0.03}`. NaN and Infinity are written bare, as Python's `json` does.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::super::error::LogProblem;
use super::super::log::{Clip, GradientLog, LogMeta, LogUnit, LoraMeta, ModuleGradient};

/// Version of the format.
const VERSION: u64 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    hydra_grads: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default = "l2")]
    norm: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clip: Option<Clip>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<LogUnit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lora: Option<LoraMeta>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
}

fn l2() -> String {
    "l2".to_owned()
}

/// Reads the header; the flag says whether the norms were estimated.
pub(super) fn parse_header(line: &[u8]) -> Result<(LogMeta, bool), LogProblem> {
    let header: Header = serde_json::from_slice(line).map_err(|e| LogProblem::Header(e.to_string()))?;
    if header.hydra_grads != VERSION {
        return Err(LogProblem::Version(header.hydra_grads));
    }
    if header.norm != "l2" {
        return Err(LogProblem::NotL2(header.norm));
    }
    if header.lora.is_some_and(|lora| lora.r == 0) {
        return Err(LogProblem::Header("lora.r is 0".to_owned()));
    }
    let Header { model, clip, unit, lora, estimated, .. } = header;
    Ok((LogMeta { model, clip, unit, lora }, estimated))
}

/// Writes the project's own gradient log, a step at a time.
#[derive(Debug)]
pub struct LogWriter<W: Write> {
    out: W,
}

impl<W: Write> LogWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn new(out: W, meta: &LogMeta) -> io::Result<Self> {
        Self::with_header(out, meta, false)
    }

    /// Goes on with a log whose header is already written.
    pub fn append(out: W) -> Self {
        Self { out }
    }

    fn with_header(mut out: W, meta: &LogMeta, estimated: bool) -> io::Result<Self> {
        let LogMeta { model, clip, unit, lora } = meta.clone();
        let header = Header { hydra_grads: VERSION, model, norm: l2(), clip, unit, lora, estimated };
        serde_json::to_writer(&mut out, &header)?;
        out.write_all(b"\n")?;
        Ok(Self { out })
    }

    /// Writes one step: its loss and the gradients of each module, by module path.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn step<N: AsRef<str>>(
        &mut self,
        step: u64,
        loss: Option<f64>,
        gradients: impl IntoIterator<Item = (N, ModuleGradient)>,
    ) -> io::Result<()> {
        let out = &mut self.out;
        write!(out, "{{\"step\":{step}")?;
        if let Some(loss) = loss {
            out.write_all(b",\"loss\":")?;
            write_number(out, loss)?;
        }
        out.write_all(b",\"grads\":{")?;
        let filled = gradients.into_iter().filter(|(_, gradient)| !gradient.is_empty());
        for (i, (module, gradient)) in filled.enumerate() {
            if i > 0 {
                out.write_all(b",")?;
            }
            serde_json::to_writer(&mut *out, module.as_ref())?;
            let mut separator: &[u8] = b":{";
            for (name, value) in ["\"A\":", "\"B\":", "\"W\":"].into_iter().zip(gradient.values()) {
                let Some(value) = value else { continue };
                out.write_all(separator)?;
                out.write_all(name.as_bytes())?;
                write_number(out, value)?;
                separator = b",";
            }
            out.write_all(b"}")?;
        }
        out.write_all(b"}}\n")
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.out
    }
}

/// Writes a whole log; reading it gives the same meta data, modules and steps, bit by bit.
///
/// # Errors
/// What `out` reports.
pub fn write_log(log: &GradientLog, out: impl Write) -> io::Result<()> {
    let mut writer = LogWriter::with_header(out, &log.meta, log.estimated)?;
    for step in &log.steps {
        let gradients = log.modules.iter().map(|m| m.path.as_str()).zip(step.gradients.iter().copied());
        writer.step(step.step, step.loss, gradients)?;
    }
    writer.flush()
}

/// A number with as many digits as bring the same one back; NaN and Infinity as Python writes them.
fn write_number(out: &mut impl Write, value: f64) -> io::Result<()> {
    if value.is_finite() {
        serde_json::to_writer(out, &value).map_err(io::Error::from)
    } else if value.is_nan() {
        out.write_all(b"NaN")
    } else {
        out.write_all(if value > 0.0 { b"Infinity" } else { b"-Infinity" })
    }
}
