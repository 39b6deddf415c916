. ../../TEMPLATE/cwcl1/cmd.sh
