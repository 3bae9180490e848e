/* Ends an instruction set: what it set for the templates goes. */
#undef KN
#undef KERNELS_LANES
#undef KERNELS_NAME
#undef KERNELS_VNNI
#undef KERNELS_ATTN_Q
#undef KERNELS_ATTN_P
#undef KERNELS_ATTN_D
#undef KERNELS_ATTN_CASES
#undef KERNELS_PLAIN_R
#undef KERNELS_PLAIN_T
#undef KERNELS_PLAIN_CASES
#undef KERNELS_TOKENS
#undef KERNELS_TOKEN_CASES
#undef KERNELS_PAIR_TOKENS
#undef KERNELS_PAIR_CASES
