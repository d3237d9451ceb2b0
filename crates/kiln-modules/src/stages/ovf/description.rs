//! The description itself: an envelope with the files, the disks and the machine, the latter once as VMware reads it
//! and once as VirtualBox does.

use std::fmt::Write;

/// The namespaces, by the prefixes of names in them.
const NAMESPACES: [(&str, &str); 8] = [
    ("xmlns", "http://schemas.dmtf.org/ovf/envelope/1"),
    ("xmlns:cim", "http://schemas.dmtf.org/wbem/wscim/1/common"),
    ("xmlns:ovf", "http://schemas.dmtf.org/ovf/envelope/1"),
    ("xmlns:rasd", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"),
    ("xmlns:vmw", "http://www.vmware.com/schema/ovf"),
    ("xmlns:vssd", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"),
    ("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance"),
    ("xmlns:vbox", "http://www.virtualbox.org/ovf/machine"),
];

/// The form of the image, as its specification is known.
const FORM: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// The hardware as resources: attributes of the item, its members, and what VMware is told of it besides.
type Item = (
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
    Option<(&'static str, &'static str)>,
);

const ITEMS: [Item; 6] = [
    (
        &[],
        &[
            ("AllocationUnits", "hertz * 10^6"),
            ("Description", "Number of Virtual CPUs"),
            ("ElementName", "2 virtual CPU(s)"),
            ("InstanceID", "1"),
            ("ResourceType", "3"),
            ("VirtualQuantity", "2"),
        ],
        None,
    ),
    (
        &[],
        &[
            ("AllocationUnits", "byte * 2^20"),
            ("Description", "Memory Size"),
            ("ElementName", "4096 MB of memory"),
            ("InstanceID", "2"),
            ("ResourceType", "4"),
            ("VirtualQuantity", "4096"),
        ],
        None,
    ),
    (
        &[("ovf:required", "false")],
        &[
            ("AutomaticAllocation", "false"),
            ("ElementName", "VirtualVMCIDevice"),
            ("InstanceID", "7"),
            ("ResourceSubType", "vmware.vmci"),
            ("ResourceType", "1"),
        ],
        Some(("allowUnrestrictedCommunication", "false")),
    ),
    (
        &[],
        &[
            ("Address", "0"),
            ("Description", "SCSI Controller"),
            ("ElementName", "SCSI Controller 0"),
            ("InstanceID", "3"),
            ("ResourceSubType", "VirtualSCSI"),
            ("ResourceType", "6"),
        ],
        None,
    ),
    (
        &[],
        &[
            ("Address", "0"),
            ("Description", "IDE Controller"),
            ("ElementName", "VirtualIDEController 0"),
            ("InstanceID", "4"),
            ("ResourceType", "5"),
        ],
        None,
    ),
    (
        &[],
        &[
            ("AddressOnParent", "0"),
            ("ElementName", "Hard disk 0"),
            ("HostResource", "ovf:/disk/vmdisk1"),
            ("InstanceID", "5"),
            ("Parent", "3"),
            ("ResourceType", "17"),
        ],
        Some(("backing.writeThrough", "false")),
    ),
];

/// What differs from machine to machine.
pub(super) struct Machine<'a> {
    /// The name of the image.
    pub(super) name: &'a str,
    /// The size of the image's file.
    pub(super) size: u64,
    /// The size of the disk.
    pub(super) capacity: u64,
    /// What the disk is known by.
    pub(super) disk: &'a str,
    /// What the machine is known by.
    pub(super) machine: &'a str,
    /// VMware's name of the operating system.
    pub(super) vmware_os: &'a str,
    /// VMware's name of the hardware.
    pub(super) hardware: &'a str,
    /// VirtualBox's name of the operating system.
    pub(super) virtualbox_os: &'a str,
    /// The address of the network card in VirtualBox.
    pub(super) address: &'a str,
}

impl Machine<'_> {
    /// The document.
    pub(super) fn description(&self) -> String {
        let mut document = Document { text: "<?xml version=\"1.0\"?>\n".to_owned(), depth: 0 };
        let (size, capacity) = (self.size.to_string(), self.capacity.to_string());
        document.within("Envelope", &NAMESPACES, |document| {
            document.within("References", &[], |document| {
                let file = [("ovf:href", self.name), ("ovf:id", "file1"), ("ovf:size", &size)];
                document.empty("File", &file);
            });
            document.within("DiskSection", &[], |document| {
                document.text("Info", "Virtual disk information");
                let disk = [
                    ("ovf:capacity", capacity.as_str()),
                    ("ovf:capacityAllocationUnits", "byte"),
                    ("ovf:diskId", "vmdisk1"),
                    ("ovf:fileRef", "file1"),
                    ("ovf:format", FORM),
                    ("ovf:populatedSize", &size),
                    ("vbox:uuid", self.disk),
                ];
                document.empty("Disk", &disk);
            });
            document.within("NetworkSection", &[], |document| {
                document.text("Info", "The list of logical networks");
            });
            document.within("VirtualSystem", &[("ovf:id", "image")], |document| {
                document.text("Info", "A virtual machine");
                document.text("Name", "VM");
                let system = [("ovf:id", "100"), ("vmw:osType", self.vmware_os)];
                document.within("OperatingSystemSection", &system, |document| {
                    document.text("Info", "The kind of installed guest operating system");
                });
                self.hardware(document);
                self.virtualbox(document);
            });
        });
        document.text
    }

    fn hardware(&self, document: &mut Document) {
        let transport = [("ovf:transport", "com.vmware.guestInfo")];
        document.within("VirtualHardwareSection", &transport, |document| {
            document.text("Info", "Virtual hardware requirements");
            document.within("System", &[], |document| {
                document.text("vssd:ElementName", "Virtual Hardware Family");
                document.text("vssd:InstanceID", "0");
                document.text("vssd:VirtualSystemIdentifier", "image");
                document.text("vssd:VirtualSystemType", self.hardware);
            });
            for (attributes, members, setting) in ITEMS {
                document.within("Item", attributes, |document| {
                    for (name, value) in members {
                        document.text(&format!("rasd:{name}"), value);
                    }
                    if let Some((key, value)) = setting {
                        document.setting(key, value);
                    }
                });
            }
            document.setting("bootOptions.efiSecureBootEnabled", "false");
            document.setting("firmware", "efi");
        });
    }

    fn virtualbox(&self, document: &mut Document) {
        let machine = [
            ("ovf:required", "false"),
            ("version", "1.16-linux"),
            ("uuid", self.machine),
            ("name", "packer-virtualbox-UNIX"),
            ("OSType", self.virtualbox_os),
            ("snapshotFolder", "Snapshots"),
        ];
        document.within("vbox:Machine", &machine, |document| {
            document.text("ovf:Info", "Complete VirtualBox machine configuration in VirtualBox format");
            document.within("Hardware", &[], |document| {
                document.within("CPU", &[("count", "2")], |document| {
                    for (name, enabled) in [
                        ("PAE", "true"),
                        ("LongMode", "true"),
                        ("X2APIC", "true"),
                        ("HardwareVirtExLargePages", "false"),
                    ] {
                        document.empty(name, &[("enabled", enabled)]);
                    }
                });
                document.empty("Memory", &[("RAMSize", "1024")]);
                document.within("Boot", &[], |document| {
                    for (position, device) in [("1", "HardDisk"), ("2", "DVD"), ("3", "None"), ("4", "None")]
                    {
                        document.empty("Order", &[("position", position), ("device", device)]);
                    }
                });
                document.within("BIOS", &[], |document| {
                    document.empty("IOAPIC", &[("enabled", "true")]);
                    document.empty("SmbiosUuidLittleEndian", &[("enabled", "true")]);
                });
                document.within("Network", &[], |document| {
                    let adapter = [
                        ("slot", "0"),
                        ("enabled", "true"),
                        ("MACAddress", self.address),
                        ("type", "82540EM"),
                    ];
                    document.within("Adapter", &adapter, |document| document.empty("NAT", &[]));
                });
                let audio = [("driver", "OSS"), ("enabledIn", "false"), ("enabledOut", "false")];
                document.empty("AudioAdapter", &audio);
                document.empty("Clipboard", &[]);
            });
            document.within("StorageControllers", &[], |document| {
                let controller = [
                    ("name", "IDE Controller"),
                    ("type", "PIIX4"),
                    ("PortCount", "2"),
                    ("useHostIOCache", "true"),
                    ("Bootable", "true"),
                ];
                document.within("StorageController", &controller, |document| {
                    let device =
                        [("type", "HardDisk"), ("hotpluggable", "false"), ("port", "0"), ("device", "0")];
                    document.within("AttachedDevice", &device, |document| {
                        document.empty("Image", &[("uuid", self.disk)]);
                    });
                });
            });
        });
    }
}

/// A document that is being written, one element a line.
struct Document {
    text: String,
    depth: usize,
}

impl Document {
    /// Adds an element with others in it.
    fn within(&mut self, name: &str, attributes: &[(&str, &str)], inner: impl FnOnce(&mut Self)) {
        self.line(&format!("<{name}{}>", listed(attributes)));
        self.depth += 1;
        inner(self);
        self.depth -= 1;
        self.line(&format!("</{name}>"));
    }

    /// Adds an element without content.
    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.line(&format!("<{name}{}/>", listed(attributes)));
    }

    /// Adds an element with a text.
    fn text(&mut self, name: &str, text: &str) {
        self.line(&format!("<{name}>{}</{name}>", escaped(text)));
    }

    /// Adds something that only VMware understands.
    fn setting(&mut self, key: &str, value: &str) {
        self.empty("vmw:Config", &[("ovf:required", "false"), ("vmw:key", key), ("vmw:value", value)]);
    }

    fn line(&mut self, element: &str) {
        let indent = "  ".repeat(self.depth);
        // Writing to a text does not fail.
        let _ = writeln!(self.text, "{indent}{element}");
    }
}

fn listed(attributes: &[(&str, &str)]) -> String {
    attributes.iter().map(|(name, value)| format!(" {name}=\"{}\"", escaped(value))).collect()
}

/// A text as the value of an attribute or an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
