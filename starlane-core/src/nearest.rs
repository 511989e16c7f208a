//! Did you mean …?

/// Longer words are not compared.
const CHARS_MAX: usize = 64;

/// The candidate most like a word, when one is like enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().flat_map(char::to_lowercase).take(CHARS_MAX + 1).collect();
    if word.is_empty() || word.len() > CHARS_MAX {
        return None;
    }
    let tolerated = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?`, when something is like it.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// How many letters must be put in, taken out, replaced or swapped (optimal string alignment).
fn distance(word: &[char], candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.chars().flat_map(char::to_lowercase).take(CHARS_MAX + 1).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=candidate.len()).collect();
    for (i, a) in word.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in candidate.iter().enumerate() {
            let mut cost = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == candidate[j - 1] && word[i - 1] == *b {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[candidate.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood_and_other_words_are_not() {
        let kinds = ["Mechtron", "Space", "Base", "Bundle", "BundleSeries"];
        for (word, meant) in [
            ("Mechatron", Some("Mechtron")),
            ("Mehctron", Some("Mechtron")),
            ("space", Some("Space")),
            ("Spcae", Some("Space")),
            ("Order", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, kinds), meant, "{word}");
        }
    }
}
