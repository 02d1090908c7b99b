<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Config\Backend;

use Magento\Config\Model\Config\Backend\Serialized\ArraySerialized;
use Magento\Framework\App\Cache\TypeListInterface;
use Magento\Framework\App\Config\ScopeConfigInterface;
use Magento\Framework\Data\Collection\AbstractDb;
use Magento\Framework\Model\Context;
use Magento\Framework\Model\ResourceModel\AbstractResource;
use Magento\Framework\Registry;
use Magento\Framework\Serialize\Serializer\Json;
use Tocsin\BreachNotification\Model\CheckAiWrittenAttributes;

/**
 * The rows of the admin screen, checked before they are saved.
 */
class AiAttributes extends ArraySerialized
{
    private CheckAiWrittenAttributes $check;

    /**
     * @param mixed[] $data
     */
    public function __construct(
        Context $context,
        Registry $registry,
        ScopeConfigInterface $config,
        TypeListInterface $cacheTypeList,
        CheckAiWrittenAttributes $check,
        ?AbstractResource $resource = null,
        ?AbstractDb $resourceCollection = null,
        array $data = [],
        ?Json $serializer = null
    ) {
        parent::__construct(
            $context,
            $registry,
            $config,
            $cacheTypeList,
            $resource,
            $resourceCollection,
            $data,
            $serializer
        );
        $this->check = $check;
    }

    /**
     * @inheritDoc
     */
    public function beforeSave()
    {
        $rows = $this->getValue();
        if (is_string($rows)) { // bin/magento config:set, app:config:import
            $rows = json_decode($rows, true);
        }
        $rows = is_array($rows) ? $rows : [];
        unset($rows['__empty']);
        $this->setValue($this->check->execute($rows));
        return parent::beforeSave();
    }
}
