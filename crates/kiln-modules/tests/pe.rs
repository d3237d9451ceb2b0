//! PE images: made by hand, made of real ones by binutils, of Debian's packages, and hostile.

mod pe {
    mod counted;
    mod hand;
    mod hostile;
    mod real;
}
