//! Where boxes and arrows are: layer by layer, from top to bottom.
//!
//! 1. *Layers*: a box stands below everything it needs; a box that needs nothing stands as low as it can.
//! 2. *Dummies*: an arrow has a place in each row that it passes, and one of its own above its end for its label. Every
//!    second row is one of labels, so that no label lies on a box or on another label.
//! 3. *Order* in the rows: by the mean place of the neighbours, in some sweeps; the order with the fewest crossings.
//! 4. *Places* in the rows: as near to the mean place of the neighbours as the order allows, which pooling adjacent
//!    violators finds exactly.
//!
//! The method is Sugiyama's; everything about it is in E. R. Gansner et al., "A Technique for Drawing Directed Graphs".

/// What is to be placed. Numbers are units of the drawing.
#[derive(Clone, Debug, Default)]
pub(super) struct Task {
    /// Width and height of each box.
    pub(super) boxes: Vec<(f64, f64)>,
    /// Arrows, from a box to a later one, with the width of the label.
    pub(super) arrows: Vec<(usize, usize, f64)>,
    /// The height of a row of labels.
    pub(super) label_height: f64,
}

/// Where everything is.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    pub(super) width: f64,
    pub(super) height: f64,
    /// The middle of the upper side of each box.
    pub(super) boxes: Vec<(f64, f64)>,
    pub(super) arrows: Vec<Route>,
}

/// The way of an arrow.
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    /// Points from the lower side of one box to the upper side of the other; between two of them it may bend.
    pub(super) points: Vec<(f64, f64)>,
    /// The middle of the label.
    pub(super) label: (f64, f64),
}

/// Room between things in a row.
const BESIDE: f64 = 28.0;
/// Room between rows.
const BETWEEN: f64 = 22.0;
/// Room around everything.
const AROUND: f64 = 20.0;
/// The width of an arrow that passes a row.
const PASSING: f64 = 6.0;
/// How often rows are sorted.
const SORTS: usize = 12;
/// How often things are moved.
const MOVES: usize = 40;
/// How much more an arrow that passes a row is drawn to its own next place than to a box: long arrows are to be straight.
const STRAIGHT: usize = 6;
/// The most things that are sorted: the picture of more cannot be read anyway.
const MOST: usize = 20_000;

/// A box, or an arrow's place in a row.
#[derive(Clone, Debug)]
struct Item {
    row: usize,
    width: f64,
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// Places everything.
pub(super) fn layout(task: &Task) -> Layout {
    let rows_of = layers(task);
    let mut items: Vec<Item> = task
        .boxes
        .iter()
        .zip(&rows_of)
        .map(|((width, _), layer)| Item {
            row: layer * 2,
            width: *width,
            x: 0.0,
            above: Vec::new(),
            below: Vec::new(),
        })
        .collect();
    // The places of each arrow, from its beginning to its end.
    let mut chains: Vec<Vec<usize>> = Vec::with_capacity(task.arrows.len());
    for (from, to, label) in &task.arrows {
        let mut chain = vec![*from];
        for row in items[*from].row + 1..items[*to].row {
            let width = if row + 1 == items[*to].row { label.max(PASSING) } else { PASSING };
            chain.push(items.len());
            items.push(Item { row, width, x: 0.0, above: Vec::new(), below: Vec::new() });
        }
        chain.push(*to);
        for pair in chain.windows(2) {
            items[pair[0]].below.push(pair[1]);
            items[pair[1]].above.push(pair[0]);
        }
        chains.push(chain);
    }
    let count = items.iter().map(|item| item.row + 1).max().unwrap_or(0);
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (index, item) in items.iter().enumerate() {
        rows[item.row].push(index);
    }
    if items.len() <= MOST {
        sort(&mut rows, &items);
    }
    place(&rows, &mut items, task.boxes.len());
    finish(task, &rows, &items, &chains)
}

/// The layer of each box: one below the lowest that it needs.
fn layers(task: &Task) -> Vec<usize> {
    let mut layers = vec![0_usize; task.boxes.len()];
    let mut needs = vec![false; task.boxes.len()];
    // Arrows lead to later boxes.
    let mut arrows: Vec<(usize, usize)> = task.arrows.iter().map(|(from, to, _)| (*from, *to)).collect();
    arrows.sort_unstable_by_key(|(_, to)| *to);
    for (from, to) in &arrows {
        layers[*to] = layers[*to].max(layers[*from] + 1);
        needs[*to] = true;
    }
    for index in (0..layers.len()).filter(|index| !needs[*index]) {
        let users = arrows.iter().filter(|(from, _)| *from == index).map(|(_, to)| layers[*to]);
        layers[index] = users.min().map_or(0, |lowest| lowest.saturating_sub(1));
    }
    layers
}

/// Sorts the rows so that few arrows cross.
fn sort(rows: &mut [Vec<usize>], items: &[Item]) {
    let mut places = vec![0; items.len()];
    let note = |rows: &[Vec<usize>], places: &mut Vec<usize>| {
        rows.iter().for_each(|row| row.iter().enumerate().for_each(|(place, item)| places[*item] = place));
    };
    note(rows, &mut places);
    let mut best = (crossings(rows, items, &places), rows.to_vec());
    for sweep in 0..SORTS {
        let down = sweep % 2 == 0;
        let count = rows.len();
        for step in 0..count {
            let row = &mut rows[if down { step } else { count - 1 - step }];
            let mean = |item: usize| {
                let neighbours = if down { &items[item].above } else { &items[item].below };
                mean(neighbours.iter().map(|neighbour| as_f64(places[*neighbour])))
                    .unwrap_or_else(|| as_f64(places[item]))
            };
            let mut keyed: Vec<(f64, usize)> = row.iter().map(|item| (mean(*item), *item)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            *row = keyed.into_iter().map(|(_, item)| item).collect();
            for (place, item) in row.iter().enumerate() {
                places[*item] = place;
            }
        }
        let now = crossings(rows, items, &places);
        if now < best.0 {
            best = (now, rows.to_vec());
        }
    }
    rows.clone_from_slice(&best.1);
}

/// How many arrows cross: pairs of neighbouring rows' arrows in another order above than below.
fn crossings(rows: &[Vec<usize>], items: &[Item], places: &[usize]) -> usize {
    let mut crossings = 0;
    for row in rows {
        let mut ends: Vec<(usize, usize)> = row
            .iter()
            .flat_map(|item| items[*item].below.iter().map(|below| (places[*item], places[*below])))
            .collect();
        ends.sort_unstable();
        // Ends below that are further right than this one, counted in a tree of sums.
        let size = ends.iter().map(|(_, below)| below + 2).max().unwrap_or(0);
        let mut sums = vec![0_usize; size];
        for (seen, (_, below)) in ends.iter().enumerate() {
            let mut not_right = 0;
            let mut at = below + 1;
            while at > 0 {
                not_right += sums[at];
                at &= at - 1;
            }
            crossings += seen - not_right;
            let mut at = below + 1;
            while at < size {
                sums[at] += 1;
                at += at & at.wrapping_neg();
            }
        }
    }
    crossings
}

/// Gives everything its place in its row.
fn place(rows: &[Vec<usize>], items: &mut [Item], boxes: usize) {
    for row in rows {
        let mut x = 0.0;
        for item in row {
            x += items[*item].width / 2.0;
            items[*item].x = x;
            x += items[*item].width / 2.0 + BESIDE;
        }
    }
    for sweep in 0..MOVES {
        for step in 0..rows.len() {
            let row = &rows[if sweep % 2 == 0 { step } else { rows.len() - 1 - step }];
            let wanted: Vec<f64> = row
                .iter()
                .map(|index| {
                    let item = &items[*index];
                    let neighbours = item.above.iter().chain(&item.below);
                    let drawn = neighbours.flat_map(|neighbour| {
                        let straight = *index >= boxes && *neighbour >= boxes;
                        std::iter::repeat_n(items[*neighbour].x, if straight { STRAIGHT } else { 1 })
                    });
                    mean(drawn).unwrap_or(item.x)
                })
                .collect();
            let widths: Vec<f64> = row.iter().map(|item| items[*item].width).collect();
            for (item, x) in row.iter().zip(nearest(&wanted, &widths)) {
                items[*item].x = x;
            }
        }
    }
}

/// The places nearest to the wanted ones (in squares) at which things of such widths stand in this order.
fn nearest(wanted: &[f64], widths: &[f64]) -> Vec<f64> {
    // With the room that those on the left take subtracted, what is left is to be ascending.
    let mut offset = 0.0;
    let mut offsets = Vec::with_capacity(widths.len());
    for (index, width) in widths.iter().enumerate() {
        if index > 0 {
            offset += widths[index - 1] / 2.0 + BESIDE + width / 2.0;
        }
        offsets.push(offset);
    }
    // Blocks of things that touch: sum and number.
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for (wanted, offset) in wanted.iter().zip(&offsets) {
        let mut block = (wanted - offset, 1);
        while let Some((sum, number)) = blocks.last().copied()
            && sum / as_f64(number) > block.0 / as_f64(block.1)
        {
            blocks.pop();
            block = (block.0 + sum, block.1 + number);
        }
        blocks.push(block);
    }
    let places =
        blocks.into_iter().flat_map(|(sum, number)| std::iter::repeat_n(sum / as_f64(number), number));
    places.zip(offsets).map(|(place, offset)| place + offset).collect()
}

/// Turns places in rows into points.
fn finish(task: &Task, rows: &[Vec<usize>], items: &[Item], chains: &[Vec<usize>]) -> Layout {
    let left = items.iter().map(|item| item.x - item.width / 2.0).fold(f64::INFINITY, f64::min);
    let right = items.iter().map(|item| item.x + item.width / 2.0).fold(f64::NEG_INFINITY, f64::max);
    if items.is_empty() {
        return Layout { width: 2.0 * AROUND, height: 2.0 * AROUND, ..Layout::default() };
    }
    let x = |item: usize| items[item].x - left + AROUND;
    // The upper side and the height of each row.
    let mut top = AROUND;
    let mut tops = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let boxes = row.iter().filter_map(|item| task.boxes.get(*item)).map(|(_, height)| *height);
        let height = if index % 2 == 1 { task.label_height } else { boxes.fold(0.0, f64::max) };
        tops.push((top, height));
        top += height + BETWEEN;
    }
    let boxes: Vec<(f64, f64)> =
        (0..task.boxes.len()).map(|index| (x(index), tops[items[index].row].0)).collect();
    let arrows = chains
        .iter()
        .map(|chain| {
            let (from, to) = (chain[0], chain[chain.len() - 1]);
            let (begin, end) =
                (port(items, from, chain[1], true), port(items, to, chain[chain.len() - 2], false));
            let below = tops[items[from].row].0 + task.boxes[from].1;
            let mut points = vec![(x(from) + begin, below)];
            // A small box in a row of large ones: straight down first.
            points.push((x(from) + begin, tops[items[from].row].0 + tops[items[from].row].1));
            for item in &chain[1..chain.len() - 1] {
                let (top, height) = tops[items[*item].row];
                points.push((x(*item), top));
                points.push((x(*item), top + height));
            }
            points.push((x(to) + end, tops[items[to].row].0));
            let label = chain[chain.len() - 2];
            let (top, height) = tops[items[label].row];
            Route { points, label: (x(label), top + height / 2.0) }
        })
        .collect();
    Layout { width: right - left + 2.0 * AROUND, height: top - BETWEEN + AROUND, boxes, arrows }
}

/// Where on a box's side an arrow begins or ends, from the middle: side by side, in the order of where they lead.
fn port(items: &[Item], of: usize, neighbour: usize, below: bool) -> f64 {
    let item = &items[of];
    let mut all: Vec<usize> = if below { item.below.clone() } else { item.above.clone() };
    all.sort_by(|a, b| items[*a].x.total_cmp(&items[*b].x).then(a.cmp(b)));
    let place = all.iter().position(|other| *other == neighbour).unwrap_or(0);
    let side = item.width * 0.6;
    side * ((as_f64(place) + 0.5) / as_f64(all.len().max(1)) - 0.5)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut number) = (0.0, 0_usize);
    for value in values {
        sum += value;
        number += 1;
    }
    (number > 0).then(|| sum / as_f64(number))
}

#[expect(clippy::cast_precision_loss, reason = "places in a picture")]
fn as_f64(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number from a row of numbers that look like chance.
    fn next(state: &mut u64) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*state >> 33).expect("31 bits")
    }

    #[test]
    fn nothing_overlaps_and_arrows_lead_down() {
        let mut state = 7;
        for round in 0..40 {
            let boxes: Vec<(f64, f64)> = (0..2 + round)
                .map(|_| (as_f64(40 + next(&mut state) % 200), as_f64(20 + next(&mut state) % 150)))
                .collect();
            let mut arrows = Vec::new();
            for to in 1..boxes.len() {
                for _ in 0..next(&mut state) % 4 {
                    arrows.push((next(&mut state) % to, to, as_f64(next(&mut state) % 120)));
                }
            }
            let task = Task { boxes, arrows, label_height: 14.0 };
            let layout = layout(&task);
            let inside =
                |(x, y): (f64, f64)| (0.0..=layout.width).contains(&x) && (0.0..=layout.height).contains(&y);
            // Boxes and labels, as left, top, right, bottom.
            let mut things: Vec<[f64; 4]> = Vec::new();
            for ((width, height), (x, y)) in task.boxes.iter().zip(&layout.boxes) {
                things.push([x - width / 2.0, *y, x + width / 2.0, y + height]);
            }
            for ((from, to, width), route) in task.arrows.iter().zip(&layout.arrows) {
                let (x, y) = route.label;
                things.push([x - width / 2.0, y - 7.0, x + width / 2.0, y + 7.0]);
                assert!(route.points.is_sorted_by(|a, b| a.1 <= b.1), "{route:?}");
                assert!(route.points.iter().all(|point| inside(*point)), "{route:?}");
                let (begin, end) = (route.points[0], route.points[route.points.len() - 1]);
                let on =
                    |index: usize, x: f64| (x - layout.boxes[index].0).abs() <= task.boxes[index].0 / 2.0;
                assert!(on(*from, begin.0) && on(*to, end.0), "{route:?}");
                assert!((begin.1 - layout.boxes[*from].1 - task.boxes[*from].1).abs() < 1e-6);
                assert!((end.1 - layout.boxes[*to].1).abs() < 1e-6);
            }
            for (index, a) in things.iter().enumerate() {
                assert!(inside((a[0], a[1])) && inside((a[2], a[3])), "{a:?}");
                for b in &things[index + 1..] {
                    let apart = a[2] <= b[0] + 1e-6
                        || b[2] <= a[0] + 1e-6
                        || a[3] <= b[1] + 1e-6
                        || b[3] <= a[1] + 1e-6;
                    assert!(apart, "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn arrows_do_not_cross_where_they_need_not() {
        // Two chains whose ends stand in the wrong order at first.
        let boxes = vec![(50.0, 20.0); 6];
        let arrows = vec![(0, 3, 10.0), (1, 2, 10.0), (2, 5, 10.0), (3, 4, 10.0)];
        let layout = layout(&Task { boxes, arrows, label_height: 14.0 });
        let x = |index: usize| layout.boxes[index].0;
        assert_eq!(x(0) < x(1), x(3) < x(2), "{:?}", layout.boxes);
        assert_eq!(x(3) < x(2), x(4) < x(5), "{:?}", layout.boxes);
    }

    #[test]
    fn places_are_the_nearest_that_the_order_allows() {
        assert_eq!(nearest(&[0.0, 100.0], &[10.0, 10.0]), [0.0, 100.0]);
        // Both want the same place: they stand around it.
        assert_eq!(nearest(&[50.0, 50.0], &[10.0, 10.0]), [31.0, 69.0]);
        assert_eq!(nearest(&[], &[]), [0.0; 0]);
    }
}
