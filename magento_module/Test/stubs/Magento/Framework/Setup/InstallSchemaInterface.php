<?php

declare(strict_types=1);

namespace Magento\Framework\Setup;

interface InstallSchemaInterface
{
    public function install(SchemaSetupInterface $setup, ModuleContextInterface $context);
}
