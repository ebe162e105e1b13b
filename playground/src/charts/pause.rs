//! What is seen of a training that has paused or ended, in sentences.

use hydra_shared::layout::Layout;
use hydra_shared::statistics::{deviation, mean, student_quantile_975};

use super::answers::judge;
use super::norms::digits;
use crate::messages::training::{Answers, Arm, Ready, Scored, StepReport};
use crate::text::signed;

/// Last steps whose losses are compared.
const COMPARED: usize = 20;
/// Fewest steps of which a difference is told from noise.
const FEWEST: usize = 5;

/// What both losses, the gradients and the answers show so far; at the end with what one run cannot show. Nothing before the
/// first step. Answers may be of an earlier step than the last.
pub fn explained(
    ready: &Ready,
    layout: &Layout,
    history: &[StepReport],
    answers: Option<&Answers>,
    scored: Option<&Scored>,
) -> Vec<String> {
    let Some(last) = history.last() else { return Vec::new() };
    let mut sentences = vec![losses(history)];
    sentences.extend(gradients(ready, layout, last));
    sentences.push(answered(ready, answers));
    if last.step >= ready.setup.steps {
        sentences.extend(scored.map(score));
        sentences.push(format!(
            "Whether a schedule is better takes many seeds, which trainer experiment runs; {} steps of a tiny model show how it \
             learns.",
            ready.setup.steps
        ));
    }
    sentences
}

/// Which arm's loss is lower, and whether that says anything.
fn losses(history: &[StepReport]) -> String {
    // Both arms saw the same conversations: what a step's batch does to a loss it does to both.
    let last = history.get(history.len().saturating_sub(COMPARED)..).unwrap_or_default();
    let of = |arm: Arm| mean(&last.iter().map(|step| step.losses[arm.index()]).collect::<Vec<f64>>());
    let differences: Vec<f64> = last.iter().map(|step| step.losses[0] - step.losses[1]).collect();
    let [schedule, uniform] = Arm::BOTH.map(|arm| of(arm).unwrap_or(f64::NAN));
    let difference = schedule - uniform;
    if !difference.is_finite() {
        return "A loss is no number any more: the run has diverged, and a lower learning rate may keep the next one from it."
            .to_owned();
    }
    let count = differences.len();
    let error = deviation(&differences).filter(|_| count >= FEWEST);
    let error = error.map(|spread| student_quantile_975(count - 1) * spread / (count as f64).sqrt());
    let meaning = match error {
        Some(error) if difference.abs() > error => {
            let lower = if difference < 0.0 { "the schedule" } else { Arm::Uniform.name() };
            format!(
                "It is lower under {lower} by {:.3} ± {error:.3}; it is one run, and another seed can turn it round",
                difference.abs()
            )
        }
        Some(error) => {
            format!("The difference, {:.3} ± {error:.3}, is hidden by the noise of these steps", difference.abs())
        }
        None => "These are too few steps to tell a difference from noise".to_owned(),
    };
    format!(
        "Mean loss of the last {count} steps: {schedule:.3} under the schedule, {uniform:.3} under uniform LoRA. {meaning}."
    )
}

/// Where gradients are largest at a step, and what the schedule gives that module. They are those of uniform LoRA, from which
/// HyDRA plans.
fn gradients(ready: &Ready, layout: &Layout, step: &StepReport) -> Option<String> {
    let norms = || step.norms[Arm::Uniform.index()].iter().enumerate().filter(|(_, norm)| norm.is_finite());
    let (large, most) = norms().max_by(|a, b| a.1.total_cmp(b.1))?;
    let (small, least) = norms().min_by(|a, b| a.1.total_cmp(b.1))?;
    let name = |position: usize| {
        let kind = &layout.modules().get(position)?.kind;
        Some(format!("{} of layer {}", kind.name(), layout.block_of(position)))
    };
    let rank = |position: usize| ready.setup.ranks.get(position);
    let other = name(small)?;
    let other =
        if *least > 0.0 { format!("{:.1} times that of {other}", most / least) } else { format!("and 0 in {other}") };
    Some(format!(
        "At step {} the gradient of uniform LoRA is largest in {}: {}, {other}. The schedule gives that module rank {} and \
         the other rank {}, uniform LoRA both rank {}.",
        step.step,
        name(large)?,
        digits(*most),
        rank(large)?,
        rank(small)?,
        ready.setup.base_rank
    ))
}

/// What both arms score, and whether the pictures tell them apart.
fn score(scored: &Scored) -> String {
    let Scored { pictures, asked, right, before } = scored;
    if asked.len() < *pictures {
        return format!(
            "Both arms are being asked about {pictures} pictures that neither was trained on: {} so far.",
            asked.len()
        );
    }
    let questions: usize = asked.iter().sum();
    let share = |right: &[usize]| 100.0 * right.iter().sum::<usize>() as f64 / questions.max(1) as f64;
    let [schedule, uniform] = right.each_ref().map(|right| share(right));
    // Questions about one picture are answered alike: the pictures are what there is several of.
    let mean_asked = questions as f64 / asked.len().max(1) as f64;
    let points = |(a, b): (&usize, &usize)| 100.0 * (*a as f64 - *b as f64) / mean_asked;
    let differences: Vec<f64> = right[0].iter().zip(&right[1]).map(points).collect();
    let difference = schedule - uniform;
    let error = deviation(&differences).unwrap_or(f64::NAN) / (differences.len() as f64).sqrt()
        * student_quantile_975(differences.len().saturating_sub(1));
    let meaning = match difference.abs() > error {
        true => "another seed can turn it round",
        false => "these pictures do not tell the two apart",
    };
    format!(
        "Of {questions} questions about {pictures} pictures that neither was trained on, the schedule has {schedule:.1} % right, uniform \
         LoRA {uniform:.1} % and the untouched model {:.1} %: {} ± {error:.1} points in this run, and {meaning}.",
        share(before),
        signed(difference, 1)
    )
}

/// How many answers are right, and how many are others than before the first step.
fn answered(ready: &Ready, answers: Option<&Answers>) -> String {
    let right = |given: &[String]| {
        let asked = ready.questions.iter().zip(given);
        asked.filter(|(asked, answer)| judge(asked, answer, ready.side).right).count()
    };
    let (count, before) = (ready.questions.len(), right(&ready.before));
    let Some(answers) = answers else {
        return format!(
            "Before the first step {before} of the {count} answers about the pictures were right; Answer now asks again."
        );
    };
    let changed =
        |arm: Arm| answers.texts[arm.index()].iter().zip(&ready.before).filter(|(now, old)| now != old).count();
    let [schedule, uniform] = Arm::BOTH.map(|arm| right(&answers.texts[arm.index()]));
    format!(
        "After step {} the schedule has {schedule} of {count} answers about the pictures right and uniform LoRA {uniform}, where \
         the untouched model had {before}; {} and {} of them have changed.",
        answers.step,
        changed(Arm::Schedule),
        changed(Arm::Uniform)
    )
}

#[cfg(test)]
mod tests {
    use hydra_shared::schedule::ScalePolicy;
    use hydra_shared::tasks::Kind;
    use hydra_shared::vlm::spec::preset_layout;

    use super::*;
    use crate::messages::training::{SampleQuestion, TrainingSetup};

    fn ready() -> Ready {
        let question = |answer: &str| SampleQuestion {
            picture: 0,
            kind: Kind::Existence,
            text: "Is there a circle?".to_owned(),
            answer: answer.to_owned(),
            target: None,
        };
        let mut setup = TrainingSetup::new((1..=42).collect(), 4, ScalePolicy::default());
        setup.steps = 4;
        Ready {
            setup,
            parameters: [1.0; 2],
            pictures: 1,
            conversations: 1,
            side: 64,
            samples: Vec::new(),
            questions: vec![question("yes"), question("no"), question("yes")],
            before: ["no", "no", "no"].map(str::to_owned).to_vec(),
        }
    }

    fn history(losses: &[[f64; 2]]) -> Vec<StepReport> {
        let norms: Vec<f64> = (0..42).map(|module| 0.5 + f64::from((module + 5) % 42)).collect();
        let step = |(index, losses): (usize, &[f64; 2])| StepReport {
            step: index + 1,
            losses: *losses,
            norms: [vec![0.0; 42], norms.clone()],
            learning_rate: 0.1,
            milliseconds: 1.0,
            tokens: 64,
        };
        losses.iter().enumerate().map(step).collect()
    }

    fn sentences(losses: &[[f64; 2]], answers: Option<&Answers>) -> Vec<String> {
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        explained(&ready(), &layout, &history(losses), answers, None)
    }

    #[test]
    fn a_pause_says_which_loss_is_lower_where_gradients_are_large_and_what_was_answered() {
        let texts = [["yes", "no", "no"], ["no", "yes", "no"]].map(|texts| texts.map(str::to_owned).to_vec());
        let answers = Answers { step: 1, texts };
        let said = sentences(&[[2.0, 2.5], [1.0, 1.5], [0.5, 1.0]], Some(&answers));
        assert_eq!(
            said,
            [
                "Mean loss of the last 3 steps: 1.167 under the schedule, 1.667 under uniform LoRA. These are too few \
                 steps to tell a difference from noise.",
                "At step 3 the gradient of uniform LoRA is largest in k of layer 5: 41.50000, 83.0 times that of v of layer 5. The \
                 schedule gives that module rank 37 and the other rank 38, uniform LoRA both rank 4.",
                "After step 1 the schedule has 2 of 3 answers about the pictures right and uniform LoRA 0, where the untouched \
                 model had 1; 1 and 1 of them have changed.",
            ]
        );
    }

    #[test]
    fn a_difference_is_told_where_it_is_more_than_the_noise_of_the_steps_makes() {
        let said = sentences(&[[2.1, 2.0], [1.9, 2.0], [2.1, 2.0], [1.9, 2.0], [2.1, 2.0], [1.9, 2.0]], None);
        assert!(said[0].ends_with("The difference, 0.000 ± 0.115, is hidden by the noise of these steps."), "{said:?}");
        assert!(said[2].contains("1 of the 3 answers") && said[2].contains("Answer now"), "{said:?}");
        assert!(said[3].starts_with("Whether a schedule is better takes many seeds"), "at its end: {said:?}");
        let lower = sentences(&[[2.0, 2.5]; 5], None);
        assert!(lower[0].contains("lower under the schedule by 0.500 ± 0.000; it is one run"), "{lower:?}");
        // Before B has learned anything both arms are the same.
        let first = sentences(&[[2.0, 2.0]], None);
        assert!(first[0].ends_with("too few steps to tell a difference from noise."), "{first:?}");
    }

    #[test]
    fn at_the_end_both_scores_are_told_with_what_the_pictures_can_tell() {
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        let history = history(&[[2.0, 2.0]; 4]);
        let said = |scored: &Scored| {
            let said = explained(&ready(), &layout, &history, None, Some(scored));
            assert!(said.last().unwrap().starts_with("Whether a schedule is better takes many seeds"));
            said[said.len() - 2].clone()
        };
        let mut scored = Scored { pictures: 4, asked: vec![5; 2], right: [vec![4, 3], vec![3, 3]], before: vec![2; 2] };
        assert!(said(&scored).ends_with("asked about 4 pictures that neither was trained on: 2 so far."));
        (scored.asked, scored.before) = (vec![5; 4], vec![2; 4]);
        scored.right = [vec![4, 3, 5, 2], vec![3, 3, 3, 3]];
        // Differences of 20, 0, 40 and −20 points: 10 ± 3.182 · 25.82 / 2.
        assert_eq!(
            said(&scored),
            "Of 20 questions about 4 pictures that neither was trained on, the schedule has 70.0 % right, uniform LoRA 60.0 % and the \
             untouched model 40.0 %: +10.0 ± 41.1 points in this run, and these pictures do not tell the two apart."
        );
        scored.right = [vec![4; 4], vec![3; 4]];
        assert!(said(&scored).ends_with("+20.0 ± 0.0 points in this run, and another seed can turn it round."));
    }

    #[test]
    fn what_is_no_number_is_told_and_nothing_is_said_before_the_first_step() {
        assert_eq!(sentences(&[], None), [""; 0]);
        assert!(sentences(&[[f64::NAN, 2.0]], None)[0].contains("diverged"));
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        let mut history = history(&[[2.0, 2.0]]);
        history[0].norms = [Vec::new(), vec![f64::NAN; 42]];
        assert_eq!(explained(&ready(), &layout, &history, None, None).len(), 2, "no gradient is the largest");
        history[0].norms[1] = vec![0.0; 42];
        assert!(!explained(&ready(), &layout, &history, None, None)[1].contains("times"));
    }
}
