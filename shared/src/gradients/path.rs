//! Names of metrics that stand in a file's path.

/// The parts of a path.
fn parts(path: &str) -> Vec<&str> {
    path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect()
}

/// The part of a folder at which PyTorch's `add_scalars` put the name: `add_scalars(tag, {name: value})` writes the value
/// under `tag` into a folder `tag_name`. A slash in the name makes more folders.
#[cfg_attr(not(feature = "binary-logs"), allow(dead_code, reason = "only binary logs need it"))]
fn scalars_part(folders: &[&str], tag: &str) -> Option<usize> {
    let start = format!("{}_", tag.replace('/', "_"));
    folders.iter().rposition(|folder| folder.len() > start.len() && folder.starts_with(&start))
}

/// The whole key of a value of an event file whose folder names it; none for other event files.
#[cfg_attr(not(feature = "binary-logs"), allow(dead_code, reason = "only binary logs need it"))]
pub(super) fn scalars_key(path: &str, tag: &str) -> Option<String> {
    let parts = parts(path);
    let folders = parts.get(..parts.len().checked_sub(1)?)?;
    if let Some(at) = scalars_part(folders, tag) {
        let name = folders.get(at..)?.join("/");
        return Some(format!("{tag}/{}", name.get(tag.len() + 1..)?));
    }
    // tensorboardX makes a folder of the tag, and in it one of the name.
    let tag_parts: Vec<&str> = tag.split('/').collect();
    let at = folders.windows(tag_parts.len()).rposition(|window| window == tag_parts)? + tag_parts.len();
    let name = folders.get(at..)?.join("/");
    names_parameter(&name).then(|| format!("{tag}/{name}"))
}

/// Whether a part of a path holds what parameters' names do.
fn names_parameter(part: &str) -> bool {
    ["layers.", "layers/", "_proj", "lora_"].iter().any(|word| part.contains(word))
}

/// The key of a file under a tracker's folder `metrics` (mlflow's store, dvclive's plots), without the ending `.tsv`.
pub(super) fn metrics_key(path: &str) -> Option<String> {
    let parts = parts(path);
    let at = parts.iter().position(|part| *part == "metrics")?;
    let key = parts.get(at + 1..)?.join("/");
    let key = key.strip_suffix(".tsv").unwrap_or(&key).to_owned();
    (!key.is_empty()).then_some(key)
}

/// The run that a file's folder stands for, below the folder that was given: what is left of it without the parts that
/// name metrics.
pub(super) fn run_of_folder(folder: &str) -> String {
    let parts = parts(folder);
    let of_gradients = |part: &str| ["grad", "Grad", "norm"].iter().any(|word| part.contains(word));
    let scalars = |part: &str| of_gradients(part) && names_parameter(part);
    // Of tensorboardX, the tag and below it the name.
    let pair = |pair: &[&str]| matches!(pair, [tag, name] if of_gradients(tag) && names_parameter(name));
    let end = parts
        .iter()
        .position(|part| matches!(*part, "metrics" | "plots" | "logs"))
        .or_else(|| parts.iter().position(|part| scalars(part)))
        .or_else(|| parts.windows(2).position(pair))
        // Of tensorboardX, where the tag's folder itself was given. Runs, too, are named after LoRA, but not after a layer.
        .or_else(|| parts.iter().position(|part| part.contains("layers.")))
        .unwrap_or(parts.len());
    parts.get(..end).unwrap_or_default().join("/")
}

/// The folder of a swanlab log, `logs/N/1000.log`: N.
pub(super) fn swanlab_folder(path: &str) -> Option<&str> {
    let mut parts = parts(path).into_iter().rev();
    let (file, folder, logs) = (parts.next()?, parts.next()?, parts.next()?);
    (logs == "logs" && file.ends_with(".log")).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_from_the_paths_of_each_tracker() {
        let events = "runs/a/train_grad_norm_model.layers.0.q/events.out.tfevents.1";
        assert_eq!(scalars_key(events, "train/grad_norm").as_deref(), Some("train/grad_norm/model.layers.0.q"));
        let deep = "runs/grad_norm_model/layers/0/events.out.tfevents.1";
        assert_eq!(scalars_key(deep, "grad_norm").as_deref(), Some("grad_norm/model/layers/0"));
        assert_eq!(scalars_key("runs/a/events.out.tfevents.1", "grad_norm"), None);
        let x = "runs/a/train/grad_norm/model.layers.0.q/events.out.tfevents.1";
        assert_eq!(scalars_key(x, "train/grad_norm").as_deref(), Some("train/grad_norm/model.layers.0.q"));
        assert_eq!(scalars_key("grad_norm/version_0/events.out.tfevents.1", "grad_norm"), None);
        assert_eq!(metrics_key("mlruns/0/ab/metrics/grad_norm/x.weight").as_deref(), Some("grad_norm/x.weight"));
        assert_eq!(metrics_key("dvclive/plots/metrics/grad_norm/x.weight.tsv").as_deref(), Some("grad_norm/x.weight"));
        assert_eq!(swanlab_folder("swanlog/run-1/logs/12/1000.log"), Some("12"));
    }

    #[test]
    fn a_folder_is_a_run_but_for_the_parts_that_name_metrics() {
        for (folder, run) in [
            ("", ""),
            ("version_0", "version_0"),
            ("0/ab/metrics/grad_norm", "0/ab"),
            ("plots/metrics/grad_norm", ""),
            ("grad_norm_model.layers.0.q", ""),
            ("a/grad_norm_model.layers.0.q", "a"),
            ("run-1/logs/12", "run-1"),
            ("a/grad_norm/model.layers.0.q", "a"),
            ("model.layers.0.q_proj.lora_A.weight", ""),
            ("lora_r8_q_proj", "lora_r8_q_proj"),
        ] {
            assert_eq!(run_of_folder(folder), run, "{folder}");
        }
    }
}
