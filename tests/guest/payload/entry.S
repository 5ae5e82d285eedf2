/* SPDX-License-Identifier: Apache-2.0
 *
 * Where vCPUs enter, and all that runs at CPL 0 (boot.h). */

	.set FAULT_PORT, 0xf4		/* kFaultPort */
	.set STACK, 0x4000		/* Bytes for each vCPU. */
	.set CPUS, 8			/* kMaxCpus */
	.set GENERAL_PROTECTION, 13

	.section .start, "ax"
	.globl _start
_start:
	lea	1(%rdi), %eax
	imul	$STACK, %eax
	lea	stacks(%rax), %rsp
	xor	%ebp, %ebp
	call	payload_main		/* Never returns. */

	.text
/* void wait_for_interrupt(u32 seen): until `interrupts_taken` is not `seen`. */
	.globl wait_for_interrupt
wait_for_interrupt:
	mov	%edi, %eax
the_hlt:
	hlt				/* Ends up in general_protection. */
	ret

general_protection:
	cmpl	$the_hlt, 8(%rsp)
	jne	1f
	/* Interrupts are off: one that comes now ends the hlt. */
	cmpl	%eax, interrupts_taken
	jne	2f
	sti
	hlt
2:	add	$8, %rsp		/* The error code. */
	incq	(%rsp)			/* Behind the hlt of CPL 3. */
	iretq
1:	pushq	$GENERAL_PROTECTION
report:
	out	%al, $FAULT_PORT
3:	hlt
	jmp	3b

/* The 8259 end interrupts themselves, and only one vCPU has any. */
	.macro line number
line_\number:
	incl	line_counts + 4 * \number
	incl	interrupts_taken
	iretq
	.endm

	.macro exception number
exception_\number:
	.if \number == 8 || \number == 17 || \number == 21 || \number == 29 || \
	    \number == 30 || (\number >= 10 && \number <= 14)
	.else
	pushq	$0
	.endif
	pushq	$\number
	jmp	report
	.endm

	.altmacro
	.macro all name, last, number=0
	\name	%(\number)
	.if \number < \last
	all	\name, \last, %(\number + 1)
	.endif
	.endm
	all	line, 15
	all	exception, 31

	.section .rodata
	.macro line_address number
	.quad	line_\number
	.endm
	.macro exception_address number
	.if \number == GENERAL_PROTECTION
	.quad	general_protection
	.else
	.quad	exception_\number
	.endif
	.endm
	.globl line_entries, exception_entries
	.balign 8
line_entries:
	all	line_address, 15
exception_entries:
	all	exception_address, 31

	.bss
	.globl line_counts, interrupts_taken
	.balign 64
line_counts:
	.skip	64
interrupts_taken:
	.skip	64
	.balign 4096
stacks:
	.skip	STACK * CPUS

	.section .note.GNU-stack, "", @progbits
