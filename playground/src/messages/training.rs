//! Fine-tuning the tiny MobileVLM.
//!
//! ```text
//! page                      worker
//! Start(run), GoOn(run) ───► loads the model, chooses a device
//!              ◄─────────── Progress…, Device, Ready, WentOn where it was kept, Progress, Pace
//! Play, Pause, Step ──────► ◄─── Playing, Stepped…, Kept, Parity; Answers and Scored… at the end
//! Answer, Log, Adapter ───► ◄─── Answers, Log, Adapter
//!                           ◄─── Lost, then Device and Resumed, when a device is lost
//! ```

use hydra_shared::benchmarks::BoundingBox;
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::tasks::Kind;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Name of the worker: the page's folder holds `<name>_loader.js`.
pub const WORKER: &str = "training-worker";

/// Folder beside the page that holds the tiny model's files.
pub const MODEL_FOLDER: &str = "tiny-mobilevlm";

/// Largest relative difference between a GPU's loss and the CPU's that is taken for rounding.
///
/// Both compute in single precision, in another order: such losses differ by 1e-6 to 1e-4. What Burn's GPU backends are
/// known to get wrong lies far above a thousandth. The trainer holds its devices to the same number.
pub const PARITY_TOLERANCE: f64 = 1e-3;

/// Steps that are computed on both devices: the learning rate rises from 0, so the third loss is the first that depends on
/// an update, and with it on every gradient.
pub const PARITY_STEPS: usize = 3;

/// Every how many steps the state of a run is kept.
pub const KEPT_EVERY: usize = 5;

/// What the page asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TrainingRequest {
    /// Prepare a run from its beginning, and end the one there is.
    Start(NamedRun),
    /// The same, from where this browser kept another tab's or page's run of this name and the same setup, if it did.
    GoOn(NamedRun, u32),
    /// Take steps until the last one, or until [`TrainingRequest::Pause`].
    Play,
    /// Take no further step.
    Pause,
    /// Take one step.
    Step,
    /// Wait so many milliseconds between two steps.
    Wait(u32),
    /// Answer the sample questions with the arms as they are.
    Answer,
    /// Give the gradient log of an arm.
    Log(Arm),
    /// Give the files of an arm's adapter.
    Adapter(Arm),
    /// Destroy the GPU device: a test of what the page does when a device is lost.
    LoseDevice,
}

/// A run that the browser keeps under a name of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedRun {
    /// Its name, which no other run has.
    pub name: u32,
    /// The run.
    pub setup: TrainingSetup,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingSetup {
    /// The schedule: a rank per module in layer-major order.
    pub ranks: Vec<u32>,
    /// Rank of every module in the arm that it is compared with.
    pub base_rank: u32,
    /// From ranks to scales, in both arms.
    pub scale: ScalePolicy,
    /// Seed of initial adapters and of the order of the data, in both arms.
    pub seed: u32,
    /// Optimizer steps.
    pub steps: usize,
    /// Conversations in a step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Where it runs.
    pub device: DeviceChoice,
}

impl TrainingSetup {
    /// The run of a schedule with everything else as it is by default: what a visitor waits for on a CPU, and enough to
    /// see both losses fall.
    pub fn new(ranks: Vec<u32>, base_rank: u32, scale: ScalePolicy) -> Self {
        Self {
            ranks,
            base_rank,
            scale,
            seed: 1,
            steps: 60,
            batch_size: 8,
            learning_rate: 5e-3,
            device: DeviceChoice::Auto,
        }
    }
}

/// Where a run may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceChoice {
    /// Where a step takes less time: on WebGPU, where the browser has an adapter that is no software, else on the CPU.
    Auto,
    /// On WebGPU, even on a software adapter.
    Gpu,
    /// On the CPU.
    Cpu,
}

/// One of the two adapters that are trained side by side on the same batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arm {
    /// The schedule at hand.
    Schedule,
    /// The same rank everywhere.
    Uniform,
}

impl Arm {
    /// Both, in the order of every pair in these messages.
    pub const BOTH: [Self; 2] = [Self::Schedule, Self::Uniform];

    /// Its place in such a pair.
    pub fn index(self) -> usize {
        self as usize
    }

    /// What the page calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Uniform => "uniform LoRA",
        }
    }
}

/// What the worker answers. Pairs are in the order of [`Arm::BOTH`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TrainingReply {
    /// What it is busy with.
    Progress(String),
    /// Where it computes from now on.
    Device(DeviceInfo),
    /// A run is prepared.
    Ready(Box<Ready>),
    /// How long a step takes.
    Pace(Pace),
    /// Whether it takes steps by itself.
    Playing(bool),
    /// A step was taken.
    Stepped(StepReport),
    /// How GPU and CPU compare.
    Parity(Parity),
    /// The device was lost; steps after `kept` will be taken again.
    Lost {
        /// What was said of it.
        reason: String,
        /// Which attempt to get another comes next, counted from 1; 0 when it goes on on the CPU.
        attempt: u32,
        /// Steps that the last snapshot holds.
        kept: usize,
    },
    /// The run goes on from the snapshot after so many steps.
    Resumed(usize),
    /// The run goes on from where this browser kept it: the steps that were taken.
    WentOn(Vec<StepReport>),
    /// This browser keeps the run after so many steps, from which a page that is loaded again goes on.
    Kept(usize),
    /// Something that the device reported and that did not end the run.
    DeviceError(String),
    /// What both arms answer to the sample questions.
    Answers(Answers),
    /// How both arms answer about pictures that neither was trained on, as far as they were asked.
    Scored(Scored),
    /// A gradient log in the project's own format.
    Log {
        /// Whose.
        arm: Arm,
        /// The file's text.
        text: String,
    },
    /// An adapter as PEFT loads it, with the projector that was trained beside it.
    Adapter {
        /// Whose.
        arm: Arm,
        /// The files, by name.
        files: Vec<(String, ByteBuf)>,
    },
    /// The last request could not be met.
    Failed(String),
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Whether it is a GPU through WebGPU.
    pub webgpu: bool,
    /// What it calls itself.
    pub name: String,
    /// Whether it is a software adapter: WebGPU, but no GPU.
    pub software: bool,
    /// Why it was taken, where it is not what was hoped for.
    pub reason: Option<String>,
}

/// A run that is prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// The run.
    pub setup: TrainingSetup,
    /// Trainable parameters of both arms, the projector left out.
    pub parameters: [f64; 2],
    /// Training pictures.
    pub pictures: usize,
    /// Conversations about them.
    pub conversations: usize,
    /// Side of the sample pictures in pixels.
    pub side: u32,
    /// The sample pictures, from the validation part: 8-bit RGB, row by row.
    pub samples: Vec<ByteBuf>,
    /// The questions about them.
    pub questions: Vec<SampleQuestion>,
    /// What the untouched model answers to them.
    pub before: Vec<String>,
}

/// A question about a sample picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleQuestion {
    /// Index of its picture among the samples.
    pub picture: usize,
    /// What it asks for.
    pub kind: Kind,
    /// The question.
    pub text: String,
    /// The expected answer.
    pub answer: String,
    /// The box that is asked for.
    pub target: Option<BoundingBox>,
}

/// A step that both arms have taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: usize,
    /// Loss of the step's conversations, before the update.
    pub losses: [f64; 2],
    /// L2 norm of every module's gradient (A and B together) before clipping, in layer-major order.
    pub norms: [Vec<f64>; 2],
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// How long the step took for both arms together.
    pub milliseconds: f64,
    /// Tokens, of text and of pictures, that both arms together learned from in it.
    pub tokens: usize,
}

/// How long one step of both arms takes, in milliseconds, measured on a run that is thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// On the CPU.
    pub cpu: f64,
    /// On WebGPU, once its kernels are compiled; none where there is none or only a software adapter, on which a step may take
    /// half a minute.
    pub gpu: Option<f64>,
    /// Whether a GPU was looked for in vain.
    pub no_gpu: bool,
}

impl Pace {
    /// How long a step takes on the device that the run has; none where it was not measured.
    pub fn of(self, webgpu: bool) -> Option<f64> {
        if webgpu { self.gpu } else { Some(self.cpu) }
    }

    /// How the two devices compare, in a sentence.
    pub fn comparison(self) -> String {
        let cpu = self.cpu;
        match self.gpu {
            Some(gpu) if gpu <= cpu => {
                format!(
                    "A step takes {gpu:.0} ms on WebGPU and {cpu:.0} ms on the CPU: {:.1} times as long.",
                    cpu / gpu.max(0.1)
                )
            }
            Some(gpu) => {
                format!(
                    "A step takes {cpu:.0} ms on the CPU and {gpu:.0} ms on WebGPU: {:.1} times as long.",
                    gpu / cpu.max(0.1)
                )
            }
            None if !self.no_gpu => format!("A step takes {cpu:.0} ms on the CPU."),
            None => format!(
                "A step takes {cpu:.0} ms on the CPU. It computes what WebGPU would; how much faster that is on a GPU, the page can only \
                 measure where there is one."
            ),
        }
    }
}

/// The same steps on the CPU and on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// Steps that were compared, of [`PARITY_STEPS`].
    pub steps: usize,
    /// Largest relative difference of a loss; infinite where one is not a number.
    pub difference: f64,
}

impl Parity {
    /// Whether the difference is no more than rounding.
    pub fn passed(&self) -> bool {
        self.difference < PARITY_TOLERANCE
    }
}

/// How many answers about pictures of the validation part are right, picture by picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    /// Pictures in all.
    pub pictures: usize,
    /// Questions about each picture that was asked about so far.
    pub asked: Vec<usize>,
    /// Right answers of both arms.
    pub right: [Vec<usize>; 2],
    /// Right answers of the untouched model.
    pub before: Vec<usize>,
}

/// What both arms answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Steps that were taken before.
    pub step: usize,
    /// An answer per question.
    pub texts: [Vec<String>; 2],
}
