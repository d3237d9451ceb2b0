//! Which items of two lists belong together: the smallest set of changes that makes one of the other.
//!
//! 1. The longest common subsequence of equal items stays where it is.
//! 2. An item that is left in both lists has moved.
//! 3. Between two items that stayed, items of one kind belong together, as many as there are, the most similar ones
//!    first; they were changed. What is left was removed or added.
//!
//! The subsequence is found 64 items at a time (Hyyrö's bit vectors): the square of 10,000 items is 1.6 million steps
//! and 12 MB. Beyond [`MOST_BITS`] equal items are paired greedily.

use std::collections::{HashMap, VecDeque};

/// What is known of an item: numbers that are equal where the items are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Equal for equal items.
    pub(super) content: u32,
    /// Equal for items that one may have been made of the other.
    pub(super) kind: u32,
}

/// What happened to an item, by its places in the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is in both.
    Kept(usize, usize),
    /// It was changed.
    Changed(usize, usize),
    /// It is at another place; this is the new one.
    Moved(usize, usize),
    /// It is at another place; this is where it was, and the new one.
    MovedAway(usize, usize),
    /// It is in the first list only.
    Removed(usize),
    /// It is in the second list only.
    Added(usize),
}

/// Gaps with more pairs than this are aligned without looking at how similar their items are.
const MOST_COMPARED: usize = 4096;

/// The most memory for the longest common subsequence, in bits: 256 MiB.
const MOST_BITS: usize = 1 << 31;

/// Aligns two lists. `features` gives numbers of an item, sorted; similar items have many in common.
pub(super) fn align(old: &[Item], new: &[Item], features: &dyn Fn(Side, usize) -> Vec<u64>) -> Vec<Step> {
    let contents = |items: &[Item]| items.iter().map(|item| item.content).collect::<Vec<_>>();
    let kept = common(&contents(old), &contents(new));
    let moved = moved(old, new, &kept);
    let away: HashMap<usize, usize> = moved.iter().copied().collect();
    let here: HashMap<usize, usize> = moved.iter().map(|(i, j)| (*j, *i)).collect();
    let mut steps = Vec::with_capacity(new.len());
    let (mut i, mut j) = (0, 0);
    for &(next_i, next_j) in kept.iter().chain([&(old.len(), new.len())]) {
        let left: Vec<usize> = (i..next_i).filter(|index| !away.contains_key(index)).collect();
        let came: Vec<usize> = (j..next_j).filter(|index| !here.contains_key(index)).collect();
        let mut pairs = pair(old, new, &left, &came, features).into_iter().peekable();
        // In the order of both lists; what went stands before what came.
        while i < next_i || j < next_j {
            let (pair_i, pair_j) = pairs.peek().copied().unwrap_or((next_i, next_j));
            if i < pair_i {
                steps.push(away.get(&i).map_or(Step::Removed(i), |to| Step::MovedAway(i, *to)));
                i += 1;
            } else if j < pair_j {
                steps.push(here.get(&j).map_or(Step::Added(j), |from| Step::Moved(*from, j)));
                j += 1;
            } else {
                steps.push(Step::Changed(i, j));
                pairs.next();
                (i, j) = (i + 1, j + 1);
            }
        }
        if next_i < old.len() {
            steps.push(Step::Kept(i, j));
            (i, j) = (i + 1, j + 1);
        }
    }
    steps
}

/// One of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The first.
    Old,
    /// The second.
    New,
}

/// Equal items outside the common subsequence, in order.
fn moved(old: &[Item], new: &[Item], kept: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut stays = (vec![false; old.len()], vec![false; new.len()]);
    for &(i, j) in kept {
        stays.0[i] = true;
        stays.1[j] = true;
    }
    let mut left: HashMap<u32, VecDeque<usize>> = HashMap::new();
    for (i, item) in old.iter().enumerate().filter(|(i, _)| !stays.0[*i]) {
        left.entry(item.content).or_default().push_back(i);
    }
    new.iter()
        .enumerate()
        .filter(|(j, _)| !stays.1[*j])
        .filter_map(|(j, item)| Some((left.get_mut(&item.content)?.pop_front()?, j)))
        .collect()
}

/// Pairs of one kind in a gap.
fn pair(
    old: &[Item],
    new: &[Item],
    left: &[usize],
    came: &[usize],
    features: &dyn Fn(Side, usize) -> Vec<u64>,
) -> Vec<(usize, usize)> {
    if left.is_empty() || came.is_empty() {
        return Vec::new();
    }
    if let ([i], [j]) = (left, came) {
        return if old[*i].kind == new[*j].kind { vec![(*i, *j)] } else { Vec::new() };
    }
    if left.len().saturating_mul(came.len()) > MOST_COMPARED {
        let kinds = |items: &[Item], places: &[usize]| {
            places.iter().map(|place| items[*place].kind).collect::<Vec<_>>()
        };
        let pairs = common(&kinds(old, left), &kinds(new, came));
        return pairs.into_iter().map(|(i, j)| (left[i], came[j])).collect();
    }
    let of = |side, places: &[usize]| places.iter().map(|place| features(side, *place)).collect::<Vec<_>>();
    let (of_left, of_came) = (of(Side::Old, left), of(Side::New, came));
    // The best that can be had from the rest of both lists; a pair counts more than any similarity.
    let width = came.len() + 1;
    let mut best = vec![0_u64; (left.len() + 1) * width];
    let worth = |i: usize, j: usize| {
        (old[left[i]].kind == new[came[j]].kind).then(|| PAIR + similarity(&of_left[i], &of_came[j]))
    };
    let mut worths = vec![None; left.len() * came.len()];
    for i in (0..left.len()).rev() {
        for j in (0..came.len()).rev() {
            let skip = best[(i + 1) * width + j].max(best[i * width + j + 1]);
            let worth = worth(i, j);
            worths[i * came.len() + j] = worth;
            let take = worth.map_or(0, |worth| worth + best[(i + 1) * width + j + 1]);
            best[i * width + j] = skip.max(take);
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < left.len() && j < came.len() {
        let here = best[i * width + j];
        if worths[i * came.len() + j].is_some_and(|worth| here == worth + best[(i + 1) * width + j + 1]) {
            pairs.push((left[i], came[j]));
            (i, j) = (i + 1, j + 1);
        } else if here == best[(i + 1) * width + j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

/// What a pair is worth beside its similarity, which is at most a thousandth part of it.
const PAIR: u64 = 1_000_000;

/// How much two sorted lists have in common: from 0 to 1000.
fn similarity(left: &[u64], right: &[u64]) -> u64 {
    let (mut i, mut j, mut common) = (0, 0, 0_u64);
    while i < left.len() && j < right.len() {
        match left[i].cmp(&right[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                (i, j) = (i + 1, j + 1);
            }
        }
    }
    match (left.len() + right.len()) as u64 {
        0 => 1000,
        all => common * 2000 / all,
    }
}

/// The longest common subsequence of two lists, as pairs of places in ascending order.
pub(super) fn common(old: &[u32], new: &[u32]) -> Vec<(usize, usize)> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - end], &new_rest[..new_rest.len() - end]);
    let middle = if old_middle.len().saturating_mul(new_middle.len()) > MOST_BITS {
        greedy(old_middle, new_middle)
    } else {
        longest(old_middle, new_middle)
    };
    let mut pairs: Vec<(usize, usize)> = (0..start).map(|place| (place, place)).collect();
    pairs.extend(middle.into_iter().map(|(i, j)| (start + i, start + j)));
    pairs.extend((0..end).map(|place| (old.len() - end + place, new.len() - end + place)));
    pairs
}

/// How many items one word of a bit vector stands for.
const WORD: usize = u64::BITS as usize;

fn longest(old: &[u32], new: &[u32]) -> Vec<(usize, usize)> {
    let words = old.len().div_ceil(WORD);
    if words == 0 || new.is_empty() {
        return Vec::new();
    }
    let mut places: HashMap<u32, Vec<u64>> = HashMap::new();
    let mut sparse: HashMap<u32, Vec<usize>> = HashMap::new();
    for (place, item) in old.iter().enumerate() {
        sparse.entry(*item).or_default().push(place);
    }
    // A zero at a place of a row: there the subsequence of the lists up to there is longer by one.
    let mut rows: Vec<u64> = Vec::with_capacity(words * new.len());
    let mut row = vec![u64::MAX; words];
    for item in new {
        if let Some(found) = sparse.get(item) {
            // Items that are there more often than words keep their bits; the bits of others are made where needed.
            let bits =
                |out: &mut [u64]| found.iter().for_each(|place| out[place / WORD] |= 1 << (place % WORD));
            if found.len() > words {
                let mask = places.entry(*item).or_insert_with(|| {
                    let mut mask = vec![0; words];
                    bits(&mut mask);
                    mask
                });
                advance(&mut row, mask.iter().copied().enumerate());
            } else {
                let mut mask: Vec<(usize, u64)> = Vec::with_capacity(found.len());
                for place in found {
                    let (word, bit) = (place / WORD, 1 << (place % WORD));
                    match mask.last_mut() {
                        Some((last, bits)) if *last == word => *bits |= bit,
                        _ => mask.push((word, bit)),
                    }
                }
                let mut next = mask.into_iter().peekable();
                advance(
                    &mut row,
                    (0..words)
                        .map(|word| (word, next.next_if(|(at, _)| *at == word).map_or(0, |(_, bits)| bits))),
                );
            }
        }
        rows.extend_from_slice(&row);
    }
    let longer = |j: usize, i: usize| rows[j * words + i / WORD] >> (i % WORD) & 1 == 0;
    let (mut i, mut j, mut pairs) = (old.len(), new.len(), Vec::new());
    while i > 0 && j > 0 {
        if !longer(j - 1, i - 1) {
            i -= 1;
        } else if j > 1 && longer(j - 2, i - 1) {
            j -= 1;
        } else {
            (i, j) = (i - 1, j - 1);
            pairs.push((i, j));
        }
    }
    pairs.reverse();
    pairs
}

/// One step of the bit vector: `row = (row + (row & mask)) | (row & !mask)`.
fn advance(row: &mut [u64], mask: impl Iterator<Item = (usize, u64)>) {
    let mut carry = false;
    for (word, bits) in mask {
        let value = row[word];
        let (sum, over) = value.overflowing_add(value & bits);
        let (sum, over_again) = sum.overflowing_add(carry.into());
        carry = over || over_again;
        row[word] = sum | (value & !bits);
    }
}

/// Each item with the next equal one.
fn greedy(old: &[u32], new: &[u32]) -> Vec<(usize, usize)> {
    let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
    for (place, item) in new.iter().enumerate() {
        places.entry(*item).or_default().push(place);
    }
    let (mut from, mut pairs) = (0, Vec::new());
    for (i, item) in old.iter().enumerate() {
        let Some(found) = places.get(item) else { continue };
        if let Some(j) = found.get(found.partition_point(|place| *place < from)) {
            pairs.push((i, *j));
            from = j + 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The length of the longest common subsequence, by the book.
    fn length(old: &[u32], new: &[u32]) -> usize {
        let mut best = vec![vec![0; new.len() + 1]; old.len() + 1];
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                best[i][j] = if old[i] == new[j] {
                    best[i + 1][j + 1] + 1
                } else {
                    best[i + 1][j].max(best[i][j + 1])
                };
            }
        }
        best[0][0]
    }

    proptest! {
        #[test]
        fn the_subsequence_is_common_and_longest(
            old in proptest::collection::vec(0_u32..6, 0..200),
            new in proptest::collection::vec(0_u32..6, 0..200),
        ) {
            let pairs = common(&old, &new);
            prop_assert!(pairs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
            prop_assert!(pairs.iter().all(|(i, j)| old[*i] == new[*j]));
            prop_assert_eq!(pairs.len(), length(&old, &new));
            let greedy = greedy(&old, &new);
            prop_assert!(greedy.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
            prop_assert!(greedy.iter().all(|(i, j)| old[*i] == new[*j]));
        }

        #[test]
        fn every_item_has_one_step(
            old in proptest::collection::vec((0_u32..9, 0_u32..3), 0..60),
            new in proptest::collection::vec((0_u32..9, 0_u32..3), 0..60),
        ) {
            // Equal items are of one kind.
            let items = |list: &[(u32, u32)]| {
                list.iter().map(|(a, kind)| Item { content: a * 3 + kind, kind: *kind }).collect::<Vec<_>>()
            };
            let (old, new) = (items(&old), items(&new));
            let steps = align(&old, &new, &|_, place| vec![place as u64]);
            let (mut of_old, mut of_new, mut left, mut right) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Kept(i, j) | Step::Moved(i, j) => prop_assert_eq!(old[i].content, new[j].content),
                    Step::Changed(i, j) => {
                        prop_assert_eq!(old[i].kind, new[j].kind);
                        prop_assert!(old[i].content != new[j].content);
                    }
                    _ => {}
                }
                match step {
                    Step::Kept(i, j) | Step::Changed(i, j) => { of_old.push(i); of_new.push(j) }
                    Step::Moved(i, j) => { left.push(i); of_new.push(j) }
                    Step::MovedAway(i, _) => { right.push(i); of_old.push(i) }
                    Step::Removed(i) => of_old.push(i),
                    Step::Added(j) => of_new.push(j),
                }
            }
            prop_assert_eq!(of_old, (0..old.len()).collect::<Vec<_>>());
            prop_assert_eq!(of_new, (0..new.len()).collect::<Vec<_>>());
            left.sort_unstable();
            prop_assert_eq!(left, right);
        }
    }

    #[test]
    fn steps_are_what_somebody_would_say() {
        use Step::{Added, Changed, Kept, Moved, MovedAway, Removed};
        // Letters are kinds, digits are what is in the item.
        let cases: [(&str, &str, &[Step]); 7] = [
            ("a1 b1 c1", "a1 b1 c1", &[Kept(0, 0), Kept(1, 1), Kept(2, 2)]),
            ("a1 b1 c1", "a1 b2 c1", &[Kept(0, 0), Changed(1, 1), Kept(2, 2)]),
            ("a1 c1", "a1 b1 c1", &[Kept(0, 0), Added(1), Kept(1, 2)]),
            ("a1 b1 c1", "b1 c1 a1", &[MovedAway(0, 2), Kept(1, 0), Kept(2, 1), Moved(0, 2)]),
            ("a1 b1", "c1 d1", &[Removed(0), Removed(1), Added(0), Added(1)]),
            // Of two new ones of the kind, the one that has more in common.
            ("a1234", "a9876 a1235", &[Added(0), Changed(0, 1)]),
            ("a1234 a5678", "a5679", &[Removed(0), Changed(1, 0)]),
        ];
        for (old, new, expected) in cases {
            let words = |list: &str| list.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let (old_words, new_words) = (words(old), words(new));
            let all: Vec<&String> = old_words.iter().chain(&new_words).collect();
            let items = |list: &[String]| {
                let item = |word: &String| Item {
                    content: u32::try_from(all.iter().position(|other| *other == word).expect("known"))
                        .expect("few"),
                    kind: u32::from(word.as_bytes()[0]),
                };
                list.iter().map(item).collect::<Vec<_>>()
            };
            let features = |side, place: usize| {
                let mut digits: Vec<u64> =
                    if side == Side::Old { &old_words[place] } else { &new_words[place] }
                        .bytes()
                        .map(u64::from)
                        .collect();
                digits.sort_unstable();
                digits
            };
            assert_eq!(align(&items(&old_words), &items(&new_words), &features), expected, "{old} → {new}");
        }
    }
}
