//! Physical volumes of LVM2: made by hand, made by LVM's tools, read by the reference, and hostile.

mod lvm2 {
    mod hand;
    mod hostile;
    mod real;
    mod reference;
}
