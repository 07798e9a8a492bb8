//! How good answers are.

/// What the insider has found for one question, and what was right.
pub(crate) struct Answer {
    /// From 0, which is nothing, to 1, which is equality. At 1 he says yes.
    pub(crate) evidence: f64,
    pub(crate) is_true: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    /// The chance that a right answer has more evidence for it than a wrong one has: a half is a coin toss.
    pub(crate) auc: f64,
    /// Of what is true, how much he says yes to.
    pub(crate) recall: f64,
    /// How often his yes is right if one of a hundred suspects is the one; nothing if he never says it.
    pub(crate) precision: Option<f64>,
}

const SUSPECTS: f64 = 100.0;

pub(crate) fn outcome(mut answers: Vec<Answer>) -> Outcome {
    answers.sort_by(|a, b| a.evidence.total_cmp(&b.evidence));
    let trues = answers.iter().filter(|answer| answer.is_true).count() as f64;
    let falses = answers.len() as f64 - trues;

    // Mann and Whitney: the sum of the ranks of what is true. Ties share theirs.
    let mut ranks = 0.0;
    let mut before = 0;
    for tied in answers.chunk_by(|a, b| a.evidence == b.evidence) {
        let middle = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        ranks += middle * tied.iter().filter(|answer| answer.is_true).count() as f64;
        before += tied.len();
    }
    let auc = (ranks - trues * (trues + 1.0) / 2.0) / (trues * falses);

    let yes =
        |is_true| answers.iter().filter(|answer| answer.evidence >= 1.0 && answer.is_true == is_true).count() as f64;
    let (recall, alarms) = (yes(true) / trues, yes(false) / falses);
    let precision = (recall + alarms > 0.0).then(|| recall / (recall + (SUSPECTS - 1.0) * alarms));
    Outcome { auc, recall, precision }
}

/// One number from several runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Nothing if there is none in some run.
    pub(crate) fn of(numbers: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let numbers: Vec<f64> = numbers.into_iter().collect::<Option<_>>()?;
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let min = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let max = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        mean.is_finite().then_some(Self { mean, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn auc(trues: &[f64], falses: &[f64]) -> f64 {
        let answers = |evidence: &[f64], is_true| -> Vec<_> {
            evidence.iter().map(|&evidence| Answer { evidence, is_true }).collect()
        };
        outcome([answers(trues, true), answers(falses, false)].into_iter().flatten().collect()).auc
    }

    #[test]
    fn the_auc_is_the_chance_that_a_right_answer_looks_better() {
        assert_eq!(auc(&[1.0, 1.0], &[0.0, 0.2]), 1.0);
        assert_eq!(auc(&[0.1], &[0.1, 0.1]), 0.5);
        assert_eq!(auc(&[0.0, 0.3], &[0.2]), 0.5);
        assert_eq!(auc(&[0.0], &[0.2]), 0.0);
        assert_eq!(auc(&[0.2, 0.3], &[0.2, 0.1]), 0.875);
    }
}
