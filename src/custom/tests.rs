use super::*;
use crate::reducer::Reducer;

/// What is wrong with a reducer that adds up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Halves what it adds: later rows count for more.
    Order,
    /// Adds without being told that the state is new.
    Remembers,
    /// One more row is added differently from its state.
    Push,
    /// Leaves the last result as it was.
    Leaves,
    /// Keeps less of a row in f32 than f32 holds.
    Coarse,
    /// Says of every segment that it is nothing.
    Nothing,
    /// [`Order`](Fault::Order) and [`Push`](Fault::Push).
    Two,
}

#[derive(Clone)]
struct Total(Fault);

impl RowReducer for Total {
    fn name(&self) -> &str {
        "total"
    }

    fn version(&self) -> u32 {
        3
    }

    fn planes(&self) -> usize {
        2
    }

    fn lift<A: Real>(&self, row: &[A], weight: A, mut state: PlanesMut<'_, A>) {
        let [sum, count] = state.split();
        for ((sum, count), &x) in sum.iter_mut().zip(count).zip(row) {
            if self.0 == Fault::Remembers {
                *sum += x * weight;
            } else {
                *sum = x * weight;
            }
            if self.0 == Fault::Coarse && A::DTYPE == crate::DType::F32 {
                *sum = A::of_f64((sum.as_f64() * 8.0).round() / 8.0);
            }
            *count = weight;
        }
    }

    fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
        let ([sum, count], [newer, newer_count]) = (older.split(), newer.split());
        for index in 0..sum.len() {
            sum[index] += newer[index];
            count[index] += newer_count[index];
            if matches!(self.0, Fault::Order | Fault::Two) {
                sum[index] /= A::of_f64(2.0);
            }
        }
    }

    fn push<A: Real>(&self, mut state: PlanesMut<'_, A>, row: &[A], weight: A, mut lifted: PlanesMut<'_, A>) {
        self.lift(row, weight, lifted.reborrow());
        self.combine(state.reborrow(), lifted.shared());
        if matches!(self.0, Fault::Push | Fault::Two) {
            state.plane(1).fill(A::of_f64(0.0));
        }
    }

    fn finish<A: Real>(&self, state: Planes<'_, A>, rows: A, out: &mut [A]) {
        let [sum, count] = state.split();
        let last = out.len().wrapping_sub(1);
        for (index, out) in out.iter_mut().enumerate() {
            match self.0 {
                Fault::Leaves if index == last => {}
                Fault::Nothing => *out = A::of_f64(f64::NAN),
                _ => *out = sum[index] / count[index] * rows,
            }
        }
    }
}

fn laws(fault: Fault) -> String {
    Laws::new(9).check(&Total(fault)).err().map_or("kept".to_owned(), |error| {
        assert_eq!(error.code(), ErrorCode::ReducerLaw);
        error.to_string()
    })
}

#[test]
fn laws_that_are_kept_pass_and_each_fault_is_found() {
    for features in [0, 1, 7, 40] {
        Laws::new(2).features(features).check(&Total(Fault::None)).unwrap();
    }
    Laws::new(3).special_rows().check(&Total(Fault::None)).unwrap();
    for (fault, told) in [
        (Fault::Order, "combine is not associative"),
        (Fault::Remembers, "lift gives other bits the second time"),
        (Fault::Push, "push gives other bits than combine"),
        (Fault::Leaves, "finish gives other bits the second time"),
        (Fault::Coarse, "in f32, widened and finished in f64"),
        (Fault::Nothing, "no result was a finite number"),
    ] {
        let error = laws(fault);
        assert!(error.contains(told), "{fault:?}: {error}");
    }
    assert!(laws(Fault::Order).contains("seed 9"));
    let two = laws(Fault::Two);
    for part in [
        "the reducer `total` breaks 2 laws; ",
        "\n  - the reducer `total`: in f64 ((a b) c) d gives",
        "\n  - the reducer `total`: in f64 push gives",
    ] {
        assert!(two.contains(part), "`{part}` is not in {two}");
    }
}

/// As many planes as it is told.
#[derive(Clone)]
struct Planed(usize);

impl RowReducer for Planed {
    fn name(&self) -> &str {
        "planed"
    }

    fn version(&self) -> u32 {
        1
    }

    fn with(&self, arguments: &[f64]) -> Result<Self> {
        match arguments {
            [] => Ok(self.clone()),
            [1.0] => Ok(Planed(1)),
            _ => Err(Error::new(ErrorCode::Option, format!("{arguments:?} is not 1")).help("give it 1")),
        }
    }

    fn planes(&self) -> usize {
        self.0
    }

    fn lift<A: Real>(&self, row: &[A], _weight: A, mut state: PlanesMut<'_, A>) {
        state.plane(0).copy_from_slice(row);
    }

    fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
        older.plane(0).copy_from_slice(newer.plane(0));
    }

    fn finish<A: Real>(&self, state: Planes<'_, A>, _rows: A, out: &mut [A]) {
        out.copy_from_slice(state.plane(0));
    }
}

#[test]
fn a_registry_says_what_it_lacks_and_what_it_cannot_take() {
    let find = |registry: &Registry, text: &str| {
        let Ok(Reducer::Named(named)) = text.parse::<Reducer>() else { panic!("{text}") };
        registry.find_reducer(&named).map(|bound| bound.planes()).map_err(|error| error.to_string())
    };
    let registry = Registry::new().reducer(Planed(2)).reducer(Total(Fault::None));
    assert_eq!(find(&registry, "custom(planed version=1)"), Ok(2));
    assert_eq!(find(&registry, "custom(planed version=1, 1)"), Ok(1));
    let told = |registry: &Registry, text: &str| find(registry, text).unwrap_err();
    insta::assert_snapshot!([
        told(&Registry::new(), "custom(planed version=1)"),
        told(&registry, "custom(plane version=1)"),
        told(&registry, "custom(planed version=2)"),
        told(&registry, "custom(planed version=1, 7)"),
        told(&registry, "custom(total version=3, 7)"),
        told(&Registry::new().reducer(Planed(0)), "custom(planed version=1)"),
        told(&Registry::new().reducer(Planed(17)), "custom(planed version=1)"),
    ].join("\n"), @r"
    the backend knows no reducer `planed` of version 1; give the backend a registry that holds it [unknown-name]
    the backend knows no reducer `plane` of version 1; did you mean `planed`? [unknown-name]
    the backend knows no reducer `planed` of version 2; the backend has version 1: plan again, or bring the version that was planned for [unknown-name]
    the reducer `planed` refuses the arguments of `custom(planed version=1, 7)`: [7.0] is not 1; give it 1 [option]
    the reducer `total` refuses the arguments of `custom(total version=3, 7)`: it takes no arguments; leave them out [option]
    the state of the reducer `planed` has 0 planes; a state has from 1 to 16 [option]
    the state of the reducer `planed` has 17 planes; a state has from 1 to 16 [option]
    ");
    assert_eq!(format!("{registry:?}"), r#"["planed 1", "total 3"]"#);
    let bound = |reducer: Total| BoundReducer::new(Arc::new(reducer)).unwrap();
    let refused = bound(Total(Fault::None)).with_weights().unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Weights);
    assert!(refused.to_string().contains("`total` has no weighted form"), "{refused}");
}

#[test]
fn names_of_built_in_reducers_are_refused_wherever_they_come_in() {
    /// A reducer of this name.
    #[derive(Clone)]
    struct Called(&'static str);
    impl RowReducer for Called {
        fn name(&self) -> &str {
            self.0
        }
        fn version(&self) -> u32 {
            1
        }
        fn planes(&self) -> usize {
            1
        }
        fn lift<A: Real>(&self, row: &[A], _weight: A, mut state: PlanesMut<'_, A>) {
            state.plane(0).copy_from_slice(row);
        }
        fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
            older.plane(0).copy_from_slice(newer.plane(0));
        }
        fn finish<A: Real>(&self, state: Planes<'_, A>, _rows: A, out: &mut [A]) {
            out.copy_from_slice(state.plane(0));
        }
    }
    let good = NamedReducer::new("planed", 1, &[]).unwrap();
    for reducer in Reducer::ALL.iter().map(Reducer::name).chain(["Mean", "average", "lse", "custom"]) {
        let refusals = [
            Reducer::named(reducer, 1, &[]).unwrap_err(),
            Registry::new().reducer(Called(reducer)).check().unwrap_err(),
            // Also where another one is looked for: nothing would ever find this one.
            Registry::new().reducer(Planed(1)).reducer(Called(reducer)).find_reducer(&good).unwrap_err(),
            Laws::new(1).check(&Called(reducer)).unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code(), ErrorCode::DuplicateName);
            assert!(refusal.to_string().contains(&format!("such as `my_{reducer}`")), "{refusal}");
        }
    }
    let spaced = Registry::new().reducer(Called("geometric mean")).check().unwrap_err();
    assert_eq!(
        spaced.to_string(),
        "`geometric mean` is no name for a reducer; a name is a letter, then letters, digits, `_` and `-`, 40 at most [spec-invalid]"
    );
}

#[test]
fn another_number_of_planes_is_a_panic_that_says_so() {
    #[derive(Clone)]
    struct Miscounts;
    impl RowReducer for Miscounts {
        fn name(&self) -> &str {
            "miscounts"
        }
        fn version(&self) -> u32 {
            1
        }
        fn planes(&self) -> usize {
            3
        }
        fn lift<A: Real>(&self, row: &[A], _weight: A, mut state: PlanesMut<'_, A>) {
            let [a, b] = state.split();
            a.copy_from_slice(row);
            b.copy_from_slice(row);
        }
        fn combine<A: Real>(&self, _older: PlanesMut<'_, A>, _newer: Planes<'_, A>) {}
        fn finish<A: Real>(&self, _state: Planes<'_, A>, _rows: A, _out: &mut [A]) {}
    }
    let panic = std::panic::catch_unwind(|| Laws::new(1).check(&Miscounts)).unwrap_err();
    let told = panic.downcast_ref::<String>().unwrap();
    assert!(told.contains("a state has other than 2 planes"), "{told}");
}
